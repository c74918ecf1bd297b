"""CLI: cuts every annotated face out of its photo: the classification dataset that stage 2 is trained on."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common.annotations import AnnotatedImage, Annotations, read_dataset
from common.cli import console, program_name, progress, run_cli
from common.errors import MediaError, UserError
from common.files import check_folder, replacing
from common.images import read_image
from common.parallel import map_jobs
from common.splits import SPLITS, read_splits
from pipeline.data.checks import check_apart
from pipeline.data.hard_negatives import MinedFaces
from stage2_classifier.cropping import cut_crop
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet, write_crop_set
from stage2_classifier.reports.contact_sheet import Cell, contact_sheet

# More than any network is shown (TrainConfig.margin), so that training can look beside the face as stage 1's boxes do.
DEFAULT_MARGIN = 0.6
SHEET_COLUMNS, SHEET_ROWS = 12, 6
REJECTS = "rejects"  # beside the splits: a class folder of it would be a class to torchvision's ImageFolder


@dataclass(frozen=True)
class BuildCropsArgs:
    """Cut the annotated faces of a dataset into DIR/<split>/<class>/*.png, with crops.csv beside them.

    Run again, it cuts only what is missing or has changed, and removes what no longer belongs there.
    """

    data: Path
    """Annotated dataset: Pascal VOC, COCO or YOLO."""
    out: Path = Path("crops")
    """Folder for the crops."""
    splits: Path = Path("splits.csv")
    """The split to follow; made with pipeline.split's defaults when it does not exist."""
    margin: float = DEFAULT_MARGIN
    """Context around a face on each side, as a fraction of its longer side; training looks at a part of it."""
    cascade: Path | None = None
    """Run of stage1_faces.finetune, whose false alarms in training photos are cut, too: rejects.csv and rejects/."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes."""


@dataclass(frozen=True)
class Built:
    """What `build_crops` did: the crop set, how many crops were cut anew, and which photos could not be read."""

    crops: CropSet
    cut: int
    unreadable: tuple[str, ...]
    without_split: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """One photo's faces, where they go, and the margin."""

    image: AnnotatedImage
    split: str
    root: Path
    margin: float
    mined: MinedFaces | None


@dataclass(frozen=True)
class _CropResult:
    records: tuple[CropRecord, ...] = ()
    rejects: tuple[CropRecord, ...] = ()
    cut: int = 0
    error: str = ""


def build_crops(
    annotations: Annotations,
    splits: Mapping[str, str],
    out: Path,
    margin: float = DEFAULT_MARGIN,
    workers: int = 1,
    mined: Mapping[str, MinedFaces] | None = None,
) -> Built:
    """Cuts each face of `annotations` whose image is in `splits` ({image_id: split}) into `out`.

    mined: {image_id: false alarms, cut beside the faces, and landmarks}.

    A crop's file name carries a digest of the photo's bytes, the box and the margin, so a finished crop is known
    from a stale one, and a run that was killed goes on where it stopped. crops.csv is written last.

    Raises UserError when `out` holds something else, when a class name cannot be a folder's name, or when no
    image is in the splits.
    """
    if not 0 <= margin <= 4:
        raise UserError(f"margin is {margin}, must lie in 0..4")
    if workers < 1:
        raise UserError(f"workers is {workers}, must be 1 or more")
    check_class_names(annotations.class_names)
    jobs = [
        _Job(image, splits[image.image_id], out, margin, (mined or {}).get(image.image_id))
        for image in annotations.images
        if image.image_id in splits
    ]
    if not jobs:
        raise UserError("no image of the dataset is in the splits file; make it anew with pipeline.split")
    _claim(out)
    # Empty class folders too, so that torchvision's ImageFolder numbers the classes alike in every split (it wants
    # allow_empty=True where a split has none of a class).
    for split in SPLITS:
        for name in annotations.class_names:
            (out / split / name).mkdir(parents=True, exist_ok=True)
    results = []
    with progress() as bar:
        task = bar.add_task("cutting faces", total=len(jobs))
        for done in map_jobs(_cut, jobs, workers):
            results.append(done)
            bar.advance(task)
    records = tuple(record for done in results for record in done.records)
    if not records:
        raise UserError(f"{out}: no face could be cut; the first photo says: {results[0].error or 'no boxes'}")
    refused = tuple(record for done in results for record in done.rejects)
    crops = CropSet(out, records, annotations.class_names, margin, refused)
    write_crop_set(crops)
    _remove_stale(crops)
    for name in annotations.class_names:
        _write_sheet(crops, name)
    return Built(
        crops,
        cut=sum(done.cut for done in results),
        unreadable=tuple(done.error for done in results if done.error),
        without_split=tuple(i.image_id for i in annotations.images if i.image_id not in splits),
    )


def check_class_names(class_names: Sequence[str]) -> None:
    """Raises UserError when a class cannot have a folder of crops, or has the name of what is no class."""
    for name in class_names:
        if name != Path(name).name or name.startswith("."):
            raise UserError(f"class {name!r} cannot be a folder's name; rename it in the annotations")
        if name == BACKGROUND:
            raise UserError(f"class {name!r} is what false alarms are called here; rename it in the annotations")


def _claim(out: Path) -> None:
    """Makes `out` ours, refusing a folder with other things in it: stale crops are deleted there."""
    marker = out / "crops.csv"
    begun = out / ".crops"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the crops")
    if out.is_dir() and any(out.iterdir()) and not marker.is_file() and not begun.is_file():
        raise UserError(f"{out}: holds other files; name an empty folder for the crops")
    out.mkdir(parents=True, exist_ok=True)
    begun.touch()


def _cut(job: _Job) -> _CropResult:
    """Cuts one photo's faces; the photo is decoded only when a crop is missing."""
    image = job.image
    try:
        digest = hashlib.sha256(image.path.read_bytes())
    except OSError as error:
        return _CropResult(error=f"{image.path}: {error.strerror or error}")
    digest.update(repr(job.margin).encode())
    pixels = None
    records, cut = [], 0
    faces = [(f"{job.split}/{label}", label, box) for label, box in zip(image.labels, image.boxes, strict=True)]
    others = [(f"{REJECTS}/{job.split}", BACKGROUND, box) for box in (job.mined.hard_negatives if job.mined else ())]
    landmarks = [*(job.mined.landmarks if job.mined else [()] * len(faces)), *[()] * len(others)]
    for number, ((folder, label, box), points) in enumerate(zip([*faces, *others], landmarks, strict=True)):
        mark = digest.copy()
        mark.update(box.tobytes())
        stem = image.image_id.replace("/", "__")
        path = f"{folder}/{stem}_{number:03d}_{mark.hexdigest()[:8]}.png"
        file = job.root / path
        if not file.is_file():
            if pixels is None:
                try:
                    pixels = read_image(image.path)
                except MediaError as error:
                    return _CropResult(error=str(error))
                height, width = pixels.shape[:2]
                if (width, height) != image.size:  # a PNG may tell of its rotation after its pixels
                    sizes = f"{width}x{height} when decoded, {image.size[0]}x{image.size[1]} by its header"
                    return _CropResult(error=f"{image.path}: is {sizes}; save it anew without EXIF rotation")
            with replacing(file) as temporary:
                Image.fromarray(cut_crop(pixels, box, job.margin)).save(temporary)
            cut += 1
        x1, y1, x2, y2 = (float(v) for v in box)
        records.append(CropRecord(path, label, job.split, image.image_id, (x1, y1, x2, y2), points))
    return _CropResult(tuple(records[: len(faces)]), tuple(records[len(faces) :]), cut)


def _remove_stale(crops: CropSet) -> None:
    """Deletes crop files that are in no record: of changed boxes, another split or margin, or a killed run."""
    current = {record.path for record in (*crops.records, *crops.hard_negatives)}
    for file in (crops.root / REJECTS).glob("*/*.png"):
        if file.relative_to(crops.root).as_posix() not in current:
            file.unlink()
    for split in SPLITS:
        for file in (crops.root / split).glob("*/*.png"):
            if file.relative_to(crops.root).as_posix() not in current:
                file.unlink()
        for folder in (crops.root / split).iterdir():
            if folder.is_dir() and folder.name not in crops.class_names and not any(folder.iterdir()):
                folder.rmdir()


def _write_sheet(crops: CropSet, label: str) -> None:
    """contact_<label>.png: crops of one class, evenly picked by size, so that small and large ones are seen."""
    records = sorted((r for r in crops.records if r.label == label), key=lambda r: r.box[2] - r.box[0])
    count = min(len(records), SHEET_COLUMNS * SHEET_ROWS)
    picked = [records[i] for i in np.linspace(0, len(records) - 1, count).round().astype(int)] if count else []
    cells = []
    for record in picked:
        with Image.open(crops.root / record.path) as image:
            pixels = np.array(image.convert("RGB"))
        cells.append(Cell(pixels, f"{record.box[2] - record.box[0]:.0f} px {record.split}"))
    rows = [cells[i : i + SHEET_COLUMNS] for i in range(0, len(cells), SHEET_COLUMNS)]
    with replacing(crops.root / f"contact_{label}.png") as temporary:
        contact_sheet(rows, side=80).save(temporary)


def run(args: BuildCropsArgs) -> int:
    """Reads, cuts, and prints a table; 1 when a photo could not be read."""
    check_apart(args.data, args.out, "--out")
    annotations = read_dataset(args.data)
    if not args.splits.exists():
        from pipeline.data.split import main as split

        print(f"{args.splits}: not found; making it with pipeline.split's defaults")
        code = split(["--data", str(args.data), "--out", str(args.splits)])
        if code:
            return code
    splits = read_splits(args.splits)
    mined = None
    if args.cascade is not None:
        from pipeline.data.hard_negatives import mine, tuned_detector

        check_folder(args.out)
        train = [image for image in annotations.images if splits.get(image.image_id) == "train"]
        with progress() as bar:
            task = bar.add_task("finding false alarms", total=len(train))
            mined = mine(tuned_detector(args.cascade), train, lambda: bar.advance(task))
    built = build_crops(annotations, splits, args.out, args.margin, args.workers, mined)
    _print_summary(built, annotations)
    return 1 if built.unreadable else 0


def _print_summary(built: Built, annotations: Annotations) -> None:
    from rich.table import Table

    crops = built.crops
    counts = Counter((record.split, record.label) for record in crops.records)
    table = Table(title=f"{len(crops.records)} crops in {crops.root}, {built.cut} cut now")
    table.add_column("split")
    for name in (*crops.class_names, "all"):
        table.add_column(name, justify="right")
    for name in SPLITS:
        row = [counts[name, label] for label in crops.class_names]
        table.add_row(name, *(str(n) for n in (*row, sum(row))))
    console().print(table)
    if crops.hard_negatives:
        print(f"{len(crops.hard_negatives)} false alarms of stage 1 in {crops.root / REJECTS}, of training photos")
    for problem in (*map(str, annotations.problems), *built.unreadable):
        print(f"warning: {problem}", file=sys.stderr)
    if built.without_split:
        names = ", ".join(built.without_split[:3])
        print(f"warning: {len(built.without_split)} images are in no split, left out: {names} ...", file=sys.stderr)
    print(f"contact sheets: {crops.root}/contact_*.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m pipeline.build_crops`."""

    def command() -> int:
        import tyro

        return run(tyro.cli(BuildCropsArgs, args=argv, prog=program_name("pipeline.build_crops")))

    return run_cli(command)
