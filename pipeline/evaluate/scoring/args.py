"""The options of pipeline.evaluate, and their checks before minutes of detecting."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import check_writable_folder
from common.sources import SourcesArgs
from pipeline.data.checks import check_apart
from pipeline.evaluate.metrics import MAX_IOU, MIN_IOU


@dataclass(frozen=True)
class EvaluateArgs(SourcesArgs):
    """Score the detector, and any other detector's results, on annotated photos."""

    data: tuple[Path, ...]
    """Annotated photos: a folder in one of the formats of docs/datasets.md. Several are scored each on its own."""
    sources: Path | None = None
    """YAML file on the folders (docs/sources.md): class names, and which are face-free. All faces are scored."""
    face_free: tuple[Path, ...] = ()
    """Folders of photos without any face: false alarms per photo at the bundle's threshold."""
    splits: Path | None = None
    """splits.csv of pipeline.split; not needed with --split all. Of several datasets, the first is split."""
    split: str = "test"
    """Which photos: train, val, test, or all."""
    bundle: Path | None = None
    """Bundle directory, or a bundle of the project by name; the default bundle without this option."""
    skip_bundle: bool = False
    """Score only the --predictions."""
    stock: bool = False
    """Also score the bundle's classifier on faces that the stock cascade (facenet-pytorch's MTCNN) finds."""
    predictions: tuple[Path, ...] = ()
    """COCO results of other detectors, scored in the same way."""
    categories: tuple[str, ...] = ()
    """Class names of the category ids in --predictions, in order, where the file does not name them."""
    first_category: int | None = None
    """Id of the first of --categories, 0 or 1, where the ids in the file leave it open."""
    coco_truth: Path | None = None
    """COCO ground truth whose images and categories name the ids in --predictions."""
    merge: tuple[str, ...] = ()
    """A=B: class A counts as class B, in annotations and detections (see above); NAME:A=B in one dataset of several."""
    iou: float = 0.5
    """IoU at which a box is on its face, in all scores but COCO's own; lower for boxes drawn by other rules."""
    match_iou: tuple[str, ...] = ()
    """NAME=0.35: another --iou for one dataset of several, by the name of its folder."""
    min_score: float = 0.0
    """Leave out detections below this score, of all detectors; above 0 this lowers average precision."""
    score_threshold: float | None = None
    """Detections count as errors from this score on; default: the bundle's, for others that of the best F1 here."""
    bootstrap: int = 200
    """Resamples of the photos for the 95% intervals; 0 for none."""
    seed: int = 0
    """Seed of the resamples."""
    threads: int = 1
    """Threads for each net."""
    pictures: bool = True
    """Write contact sheets of the worst errors (they show the photos' faces)."""
    out: Path = Path("evaluation")
    """Folder of the report; each other detector, and each dataset of several, has a folder for its pictures there."""

    @property
    def by_source(self) -> bool:
        """Return whether the report has sections by dataset: of several, of a file of sources, with --face-free."""
        return len(self.data) > 1 or self.sources is not None or bool(self.face_free)


def check_args(args: EvaluateArgs) -> None:
    """Raise UserError on bad options."""
    for name, value in (("--min-score", args.min_score), ("--score-threshold", args.score_threshold)):
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"{name} is {value}, must be in 0..1")
    if args.stock and args.skip_bundle:
        raise UserError("--stock and --skip-bundle exclude each other; give one of them")
    if args.skip_bundle and not args.predictions:
        raise UserError("nothing to score: --skip-bundle needs --predictions FILE")
    _check_data(args)
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file; name a folder with --out")
    for data in (*args.data, *args.face_free):
        check_apart(data, args.out, "--out")
    check_writable_folder(args.out)
    given = {"--categories": bool(args.categories), "--first-category": args.first_category is not None}
    for flag, is_given in {**given, "--coco-truth": args.coco_truth is not None}.items():
        if is_given and not args.predictions:
            raise UserError(f"{flag}: is for the files of --predictions; name them, or leave it out")
    for file in args.predictions:
        if not file.is_file():
            raise UserError(f"{file}: not found; check the name given with --predictions")


def _check_data(args: EvaluateArgs) -> None:
    if not args.data:
        raise UserError("--data names no folder; give one or more")
    if args.by_source and (args.skip_bundle or args.predictions):
        raise UserError("--predictions: are scored on one dataset at a time; give one --data, without --face-free")
    if args.match_iou and not args.by_source:
        raise UserError("--match-iou: is for several --data; use --iou")
    for folder in args.face_free:
        if not folder.is_dir():
            raise UserError(f"{folder}: is not a folder; check --face-free")


def match_ious(pairs: Sequence[str], names: Collection[str], default: float) -> dict[str, float]:
    """Return {dataset: IoU} from pairs NAME=IOU; `default` for the others.

    Raises:
        UserError: a pair has another form, an IoU is out of range, or no dataset has that name.
    """
    ious = dict.fromkeys(names, default)
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            iou = float(text)
        except ValueError:
            raise UserError(f"--match-iou {pair!r} is not of the form NAME=0.35") from None
        _check_name("--match-iou", pair, name, names)
        if not MIN_IOU < iou < MAX_IOU:
            raise UserError(f"--match-iou {pair!r}: {iou:g} must be between {MIN_IOU:g} and {MAX_IOU:g}")
        ious[name] = iou
    return ious


def merges_by_source(pairs: Sequence[str], names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return {dataset: pairs A=B} from pairs A=B, which hold for all datasets, and NAME:A=B.

    Raises:
        UserError: a pair names a dataset that is not given.
    """
    merges: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    for pair in pairs:
        name, colon, rest = pair.partition(":")
        of_one = bool(colon) and "=" not in name
        if of_one:
            _check_name("--merge", pair, name, names)
        for each in (name,) if of_one else names:
            merges[each] += (rest if of_one else pair,)
    return merges


def _check_name(flag: str, pair: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise UserError(f"{flag} {pair!r}: no dataset is named {name!r}; use {', '.join(names)}")
