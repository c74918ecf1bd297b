"""Command: cut every annotated face out of its photo, into the classification dataset of stage 2."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.annotations import AnnotatedImage, Annotations, count_line, require_faces
from common.annotations.loading import Log, warn
from common.arguments import parse_args
from common.cli import console, progress, run_cli
from common.display import counted, display_name, printable
from common.errors import MediaError, UserError
from common.files import atomic_replace, check_writable_folder
from common.images import read_image
from common.processes import map_jobs
from common.sources import SourcesArgs, load_sources
from common.splits import SPLITS, missing_line, read_splits
from pipeline.data.checks import check_apart, check_class_names, size_mismatch
from pipeline.data.hard_negatives import MinedFaces, load_detector, mine_faces
from pipeline.data.split import SplitArgs
from pipeline.data.split import run as make_splits
from pipeline.data.splitting import TooFewGroupsError
from stage2_classifier.cropping import cut_crop, resize_crop
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet, CropSource, write_crop_set
from stage2_classifier.reports.contact_sheet import Cell, contact_sheet

# More than any network sees (TrainConfig.margin): training moves its views like stage 1's boxes.
DEFAULT_MARGIN = 0.6
CONTACT_COLUMNS, CONTACT_ROWS = 12, 6
# Next to the split folders: inside one, torchvision's ImageFolder would take it for a class.
HARD_NEGATIVE_FOLDER = "rejects"
# Crops of further sources are many, and near faces are large: a network of 80 px with a margin of 0.35 sees 173 px.
FURTHER_MAX_SIDE = 224
MAX_STEM_BYTES = 236  # of an image id in a crop's file name: number, digest and suffix follow
JPEG_QUALITY = 95
SUFFIXES = (".png", ".jpg")


@dataclass(frozen=True)
class BuildCropsArgs(SourcesArgs):
    """Cut the annotated faces of a dataset into DIR/<split>/<class>/*.png, and list them in DIR/crops.csv.

    Run again, the command cuts only missing and changed crops, and removes crops that no longer belong there. Crops
    of further --data are JPEG files of at most 224 px a side.
    """

    out: Path = Path("crops")
    """Folder for the crops."""
    splits: Path = Path("splits.csv")
    """The split to follow; made with pipeline.split's defaults when it does not exist."""
    margin: float = DEFAULT_MARGIN
    """Context around a face on each side, as a fraction of its longer side; training shows a part of it."""
    cascade: Path | None = None
    """Run of stage1_faces.finetune; its false alarms in training photos go to rejects.csv and rejects/, too."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that cut faces, and threads that look for false alarms."""


@dataclass(frozen=True)
class CropSummary:
    """Result of `build_crops`."""

    crops: CropSet  # the crop set, as written
    cut: int  # number of crops cut in this run
    unreadable: tuple[str, ...]  # one message per photo that could not be read
    without_split: tuple[str, ...]  # ids of the images that are in no split
    not_mined: int = 0  # number of training photos without hard negatives, because they may show a face without a box


@dataclass(frozen=True)
class _PhotoJob:
    """One photo, and where its crops go."""

    image: AnnotatedImage
    split: str
    root: Path
    margin: float
    mined: MinedFaces | None
    max_side: int | None = None  # px, of the stored crops; None keeps the photo's pixels, as PNG

    def crops(self) -> list[tuple[str, str, NDArray[np.float32], tuple[float, ...]]]:
        """Return (folder, label, box, landmarks) of each crop: the faces first, then the hard negatives."""
        faces, mined = len(self.image.boxes), self.mined
        points = mined.landmarks if mined else ((),) * faces
        folders = [f"{self.split}/{label}" for label in self.image.labels]
        crops = list(zip(folders, self.image.labels, self.image.boxes, points, strict=True))
        folder = f"{HARD_NEGATIVE_FOLDER}/{self.split}"
        return crops + [(folder, BACKGROUND, box, ()) for box in (mined.hard_negatives if mined else ())]


@dataclass(frozen=True)
class _PhotoCrops:
    """The crops of one photo, or why there are none."""

    records: tuple[CropRecord, ...] = ()
    hard_negatives: tuple[CropRecord, ...] = ()
    cut: int = 0
    error: str = ""


def build_crops(
    annotations: Annotations,
    splits: Mapping[str, str],
    out: Path,
    margin: float = DEFAULT_MARGIN,
    workers: int = 1,
    mined: Mapping[str, MinedFaces] | None = None,
) -> CropSummary:
    """Cut each annotated face whose image is in a split.

    A crop's file name has a digest of the photo's bytes, the box and the margin. So a finished crop is told from a
    stale one, and a killed run resumes. crops.csv is written last.

    Args:
        annotations: the dataset.
        splits: {image_id: split}.
        out: folder for the crops.
        margin: context on each side, as a fraction of the box's longer side.
        workers: number of processes.
        mined: {image_id: hard negatives and landmarks}.

    Raises:
        UserError: `out` holds other files, a class name cannot be a folder's name, or no image is in a split.
    """
    _check_numbers(margin, workers)
    check_class_names(annotations.class_names)
    jobs = _photo_jobs(annotations, splits, out, margin, mined or {})
    if not jobs:
        raise UserError("no image of the dataset is in the splits file; make the file again with pipeline.split")
    _take_folder(out)
    _make_class_folders(out, annotations.class_names)
    with progress() as bar:
        results = list(bar.track(map_jobs(_cut_photo, jobs, workers), len(jobs), description="cutting faces"))
    records = tuple(record for result in results for record in result.records)
    if not records:
        raise UserError(f"{out}: no face could be cut; the first photo says: {results[0].error or 'no boxes'}")
    hard_negatives = tuple(record for result in results for record in result.hard_negatives)
    sources = tuple(CropSource(s.name, s.edges, s.share, s.absent_classes) for s in annotations.sources)
    crops = CropSet(out, records, annotations.class_names, margin, hard_negatives, sources)
    write_crop_set(crops)
    _remove_stale(crops)
    for name in annotations.class_names:
        _write_contact_sheet(crops, name)
    return CropSummary(
        crops,
        cut=sum(result.cut for result in results),
        unreadable=tuple(result.error for result in results if result.error),
        without_split=tuple(i.image_id for i in annotations.images if i.image_id not in splits),
        not_mined=sum(not i.complete and i.image_id in (mined or {}) for i in annotations.images),
    )


def _photo_jobs(
    annotations: Annotations, splits: Mapping[str, str], out: Path, margin: float, mined: Mapping[str, MinedFaces]
) -> list[_PhotoJob]:
    """Return the photos of the splits, as tasks of the worker processes."""
    further = {source.name for source in annotations.sources[1:]}
    return [
        _PhotoJob(
            image,
            splits[image.image_id],
            out,
            margin,
            mined.get(image.image_id),
            FURTHER_MAX_SIDE if image.source in further else None,
        )
        for image in annotations.images
        if image.image_id in splits
    ]


def _take_folder(out: Path) -> None:
    """Mark `out` as a crop folder; refuse a folder with other files, because stale crops are deleted there."""
    marker = out / ".crops"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the crops")
    if out.is_dir() and any(out.iterdir()) and not (out / "crops.csv").is_file() and not marker.is_file():
        raise UserError(f"{out}: holds other files; name an empty folder for the crops")
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _make_class_folders(out: Path, class_names: Sequence[str]) -> None:
    """Make every class's folder in every split: torchvision's ImageFolder (allow_empty=True) numbers them alike."""
    for split in SPLITS:
        for name in class_names:
            (out / split / name).mkdir(parents=True, exist_ok=True)


def _cut_photo(job: _PhotoJob) -> _PhotoCrops:
    """Cut one photo's faces; the photo is decoded only when a crop is missing."""
    image = job.image
    try:
        digest = hashlib.sha256(image.path.read_bytes())
    except OSError as error:
        return _PhotoCrops(error=f"{image.path}: {error.strerror or error}")
    digest.update(repr(job.margin).encode())
    pixels, records, cut, faces = None, [], 0, len(image.boxes)
    for number, (folder, label, box, landmarks) in enumerate(job.crops()):
        crop_digest = digest.copy()
        crop_digest.update(box.tobytes())
        name = f"{_file_stem(image.image_id)}_{number:03d}_{crop_digest.hexdigest()[:8]}"
        path = f"{folder}/{name}{SUFFIXES[job.max_side is not None]}"
        if not (job.root / path).is_file():
            try:
                pixels = _read_checked(image) if pixels is None else pixels
            except MediaError as error:
                return _PhotoCrops(error=str(error))
            _save_crop(job.root / path, cut_crop(pixels, box, job.margin), job.max_side)
            cut += 1
        x1, y1, x2, y2 = map(float, box)
        known = number >= faces or bool(image.class_known[number])
        place = (path, label, job.split, image.image_id, (x1, y1, x2, y2), landmarks)
        records.append(CropRecord(*place, source=image.source, class_known=known))
    return _PhotoCrops(tuple(records[:faces]), tuple(records[faces:]), cut)


def _file_stem(image_id: str) -> str:
    """Return the start of the crops' file names; an id too long for one is cut and gets its digest."""
    stem = image_id.replace("/", "__")
    if len(stem.encode()) <= MAX_STEM_BYTES:
        return stem
    digest = hashlib.sha256(image_id.encode()).hexdigest()[:8]
    return f"{stem.encode()[: MAX_STEM_BYTES - 9].decode(errors='ignore')}_{digest}"


def _save_crop(file: Path, crop: NDArray[np.uint8], max_side: int | None) -> None:
    """Write a crop (S, S, 3) as PNG, or shrunk to `max_side` as JPEG with colours at full resolution."""
    options: dict[str, Any] = {}
    if max_side is not None:
        crop = resize_crop(crop, min(max_side, crop.shape[0]))
        options = {"quality": JPEG_QUALITY, "subsampling": 0}
    with atomic_replace(file) as temporary:
        Image.fromarray(crop).save(temporary, **options)


def _read_checked(image: AnnotatedImage) -> NDArray[np.uint8]:
    """Return the photo's pixels; raise MediaError when their size is not that of the header."""
    pixels = read_image(image.path)
    if mismatch := size_mismatch(pixels, image.size):
        raise MediaError(image.path, f"is {mismatch}; save it again without EXIF rotation")
    return pixels


def _remove_stale(crops: CropSet) -> None:
    """Delete crop files that are in no record: of changed boxes, another split or margin, or a killed run."""
    current = {record.path for record in (*crops.records, *crops.hard_negatives)}
    for parent in (HARD_NEGATIVE_FOLDER, *SPLITS):
        for file in (crops.root / parent).glob("*/*"):
            if file.suffix in SUFFIXES and file.relative_to(crops.root).as_posix() not in current:
                file.unlink()
    for split in SPLITS:
        for folder in (crops.root / split).iterdir():
            if folder.is_dir() and folder.name not in crops.class_names and not any(folder.iterdir()):
                folder.rmdir()


def _check_numbers(margin: float, workers: int) -> None:
    """Raise UserError for a margin or a number of processes out of range."""
    if not 0 <= margin <= 4:
        raise UserError(f"margin is {margin}, must be in 0..4; use for instance {DEFAULT_MARGIN}")
    if workers < 1:
        raise UserError(f"workers is {workers}; use 1 or more")


def _write_contact_sheet(crops: CropSet, label: str) -> None:
    """Write contact_<label>.png: crops of one class, picked evenly by size, to show small and large ones."""
    records = sorted((r for r in crops.records if r.label == label), key=lambda r: r.box[2] - r.box[0])
    count = min(len(records), CONTACT_COLUMNS * CONTACT_ROWS)
    cells = []
    for i in np.linspace(0, len(records) - 1, count).round().astype(int):
        record = records[i]
        with Image.open(crops.root / record.path) as image:
            pixels = np.array(image.convert("RGB"))
        cells.append(Cell(pixels, f"{record.box[2] - record.box[0]:.0f} px {record.split}"))
    rows = [cells[i : i + CONTACT_COLUMNS] for i in range(0, len(cells), CONTACT_COLUMNS)]
    with atomic_replace(crops.root / f"contact_{label}.png") as temporary:
        contact_sheet(rows, side=80).save(temporary)


def run(args: BuildCropsArgs) -> int:
    """Read, cut, and print a table; return 1 when a photo could not be read."""
    _check_numbers(args.margin, args.workers)
    for folder in args.data:
        check_apart(folder, args.out, "--out")
    log: Log = warn
    if not args.splits.exists():
        print(f"{args.splits}: not found; making it with pipeline.split's defaults")
        try:
            if code := make_splits(_split_args(args)):
                return code
        except TooFewGroupsError as error:
            raise error.with_command(args.data, args.splits, args.source_flags()) from None
        log = _ignore  # pipeline.split has reported it
    annotations = load_sources(args, log)
    splits = read_splits(args.splits)
    if line := missing_line(args.splits, splits, {image.image_id for image in annotations.images}):
        warn(line)
    _check_faces(args.splits, splits, annotations.images)
    mined = None
    if args.cascade is not None:
        check_writable_folder(args.out)
        train = [image for image in annotations.images if splits.get(image.image_id) == "train"]
        mined = mine_faces(load_detector(args.cascade), train, args.workers)
    summary = build_crops(annotations, splits, args.out, args.margin, args.workers, mined)
    _print_summary(summary, annotations)
    return 1 if summary.unreadable else 0


def _split_args(args: BuildCropsArgs) -> SplitArgs:
    """Return the arguments of pipeline.split for the same data."""
    reading = SourcesArgs(data=args.data, sources=args.sources, rename=args.rename, unlabelled=args.unlabelled)
    return SplitArgs(**vars(reading), out=args.splits)


def _ignore(_: str) -> None:
    """Drop a line."""


def _check_faces(file: Path, splits: Mapping[str, str], images: Sequence[AnnotatedImage]) -> None:
    """Raise UserError when a split has photos, but no face."""
    for name in SPLITS:
        if members := [image for image in images if splits.get(image.image_id) == name]:
            require_faces(members, f"{file}: split {name!r}", "make the split again")


def _print_summary(summary: CropSummary, annotations: Annotations) -> None:
    """Print the crops per split and class, and all warnings."""
    from rich.markup import escape
    from rich.table import Table

    crops = summary.crops
    counts = Counter((record.split, record.label) for record in crops.records)
    table = Table(title=escape(f"{len(crops.records)} crops in {display_name(crops.root)}, {summary.cut} cut now"))
    table.add_column("split")
    for name in (*crops.class_names, "all"):
        table.add_column(escape(printable(name)), justify="right")
    for name in SPLITS:
        row = [counts[name, label] for label in crops.class_names]
        table.add_row(name, *map(str, (*row, sum(row))))
    console().print(table)
    for source in crops.sources:
        own = Counter(record.label for record in crops.records if record.source == source.name)
        found = ", ".join(f"{own[label]} {label}" for label in crops.class_names)
        negatives = sum(record.source == source.name for record in crops.hard_negatives)
        line = printable(f"{source.name}: {found}; {negatives} false alarms")
        console().print(line, markup=False, highlight=False)
    if mined := len(crops.hard_negatives):
        folder = display_name(crops.root / HARD_NEGATIVE_FOLDER)
        print(f"{mined} false alarms of stage 1 in {folder}, of training photos")
    if summary.not_mined:
        photos = counted(summary.not_mined, "training photo")
        print(f"no hard negatives from {photos} that may show a face without a box")
    if line := count_line(annotations):
        print(line)
    for message in summary.unreadable:
        print(f"warning: {printable(message)}", file=sys.stderr)
    if summary.without_split:
        names = printable(", ".join(summary.without_split[:3]))
        print(f"warning: {len(summary.without_split)} images are in no split, left out: {names} ...", file=sys.stderr)
    print(f"contact sheets: {display_name(crops.root)}/contact_*.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.build_crops`."""
    return run_cli(lambda: run(parse_args(BuildCropsArgs, argv, "pipeline.build_crops")))
