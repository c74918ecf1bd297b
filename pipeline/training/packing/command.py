"""Command: make a bundle from trained runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common.annotations import ReadingArgs
from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.errors import UserError
from pipeline.inference.bundle_meta import Search
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.stock.reference import STOCK_CONFIG as STOCK_SEARCH

# The present flag by its name in earlier versions.
RENAMED_FLAGS = {
    "--like": "--settings-from",
    "--pnet": "--pnet-threshold",
    "--rnet": "--rnet-threshold",
    "--score": "--score-threshold",
}

WeightsDtype = Literal["float16", "float32"]
Int8Net = Literal["pnet", "rnet", "onet", "classifier"]
SecondLook = Literal["on", "off", "compare"]


@dataclass(frozen=True)
class PackArgs(ReadingArgs):
    """Export a trained classifier and a cascade to ONNX, check them against torch, and write a bundle.

    With --data, settings are fitted. The stock cascade's boxes are corrected on the training photos. On the validation
    photos, the fine-tuned cascade's scores are calibrated, and the score fusion is fitted: the classifier's weight and
    temperature, how far boxes move, when a label is unsure. The score threshold is chosen there, too, and the
    bundle records its metrics on these photos.
    """

    run: tuple[Path, ...]
    """Runs of stage2_classifier.train, whose classifiers are averaged, or a bundle whose classifier is taken."""
    out: Path
    """Bundle directory to write."""
    cascade: Path | None = None
    """Run of stage1_faces.finetune; by default the stock cascade."""
    data: tuple[Path, ...] = ()
    """Annotated photos to fit the settings on; further folders, which were learned from, are only compared."""
    sources: Path | None = None
    """YAML file that says what may be learned from each --data (docs/sources.md)."""
    splits: Path = Path("splits.csv")
    """The split of --data."""
    min_face: float | None = None
    """Smallest face to find, in pixels; default: 6, of the stock cascade 12."""
    pnet_threshold: float | None = None
    """Face probability that passes P-Net; default: 0.2, of the stock cascade 0.6."""
    rnet_threshold: float | None = None
    """Least face probability by P-Net and R-Net together, in the stock cascade by R-Net; default: 0.15, stock 0.3."""
    score_threshold: float | None = None
    """`score` from which a face is reported; default: by F1 on validation photos, 0.5 without --data."""
    settings_from: Path | None = None
    """Bundle of the same recipe whose settings and metrics are taken, for weights trained on all photos."""
    weights_dtype: WeightsDtype = "float16"
    """Type of the weights on disk; float16 halves the files. The nets compute in float32, except those of --int8."""
    int8: tuple[Int8Net, ...] = ()
    """Nets that compute in INT8, by ranges measured on the training photos of --data: smaller and quicker."""
    second_look: SecondLook = "on"
    """O-Net's second pass: on, off, or compare, which fits the settings with and without it; compare needs --data."""
    note: str = ""
    """Kept in the bundle's provenance."""

    def cascade_config(self) -> Search:
        """Return the cascade's settings. Raise UserError when a value is out of range."""
        given = {name: getattr(self, name) for name in ("min_face", "pnet_threshold", "rnet_threshold")}
        default: Search = CascadeConfig(second_look=self.second_look != "off") if self.cascade else STOCK_SEARCH
        try:
            return replace(default, **{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            raise UserError(str(error)) from error


def run(args: PackArgs) -> int:
    """Pack a bundle, and print its size, classes and score threshold."""
    with requires_extra("train"):
        from pipeline.data.checks import check_apart
        from pipeline.training.packing.pack import pack_bundle, read_fit_photos
    for folder in args.data:
        check_apart(folder, args.out, "--out")
    about_data = [*args.reading_flags(), *(["--sources"] if args.sources else [])]
    if about_data and not args.data:
        raise UserError(f"{about_data[0]}: needs --data, whose annotations it is about; give both")
    config = args.cascade_config()
    _check(args)
    photos = None
    if args.data:
        fitted = args.settings_from is None
        photos = read_fit_photos(args.data, args.splits, args, args.sources, validation=fitted)
    bundle = pack_bundle(
        args.run,
        args.out,
        config,
        args.cascade,
        photos,
        args.score_threshold,
        args.note,
        args.settings_from,
        weights_dtype=args.weights_dtype,
        compare_second_look=args.second_look == "compare",
        int8=args.int8,
    )
    size = sum(file.stat().st_size for file in bundle.path.iterdir()) / 1e6
    classes, threshold = ", ".join(bundle.meta.class_names), bundle.meta.score_threshold
    console().print(f"{bundle.path}: {size:.2f} MB; classes {classes}; score from {threshold:g}")
    return 0


def _check(args: PackArgs) -> None:
    """Raise UserError when flags exclude each other."""
    settings = (args.min_face, args.pnet_threshold, args.rnet_threshold)
    if args.settings_from is not None and (settings != (None,) * 3 or args.second_look != "on"):
        flags = "--min-face, --pnet-threshold, --rnet-threshold, --second-look"
        raise UserError(f"--settings-from takes all settings from that bundle; leave out {flags}")
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold is {args.score_threshold:g}; use a number from 0 to 1")
    if args.second_look != "on" and args.cascade is None:
        raise UserError(f"--second-look {args.second_look}: the stock cascade has none; name a run with --cascade")
    if args.second_look == "compare" and not args.data:
        raise UserError("--second-look compare: needs validation photos; name them with --data")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def command() -> int:
        return run(parse_args(PackArgs, argv, "pipeline.pack", RENAMED_FLAGS))

    return run_cli(command)
