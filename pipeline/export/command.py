"""Write a bundle's whole detector as one ONNX graph: a picture in, boxes, labels and scores out.

Example: python -m pipeline.export --out mask-detector.onnx

Pyramid, P-, R- and O-Net, suppression, crops, classifier, fusion and calibration are inside, with standard operators
alone. So the file needs nothing but ONNX Runtime, in any language. With --web, a static site is written: the web page
of pipeline.serve, which finds the faces in the browser. With --hub, a folder for the Hugging Face Hub. With --int8
PHOTOS, all of these get smaller, if the bundle computes in float32 (`default` and `kaggle` compute in INT8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.errors import UserError
from common.files import check_writable_file, write_bytes
from pipeline.export.folders import FolderKind, check_folder, write_folder
from pipeline.inference.bundle import Bundle, check_no_bundle_file


@dataclass(frozen=True)
class ExportArgs:
    """Write a bundle's whole detector as one ONNX graph, a web page that needs no server, or a model folder."""

    out: Path | None = None
    """File to write, .onnx."""
    web: Path | None = None
    """Folder to write: a static site. npm fetches the runtime."""
    hub: Path | None = None
    """Folder to write: a model for the Hugging Face Hub."""
    bundle: Path | None = None
    """Bundle directory, or a bundle of the project by name; the default bundle without this option."""
    runtime: Path | None = None
    """For --web: a folder with the files of onnxruntime-web, in place of npm."""
    int8: Path | None = None
    """Folder of photos with faces: the nets compute in INT8, by the ranges that their values have on these photos."""
    all_inputs: bool = False
    """For --out: make min_score and min_face inputs that must be given, as JavaScript takes no optional inputs."""


def run(args: ExportArgs) -> int:
    """Write what is wanted, and return the exit code."""
    _check(args)
    with requires_extra("export"):
        from pipeline.bundle.int8 import int8_bundle
        from pipeline.export.graph.detector_graph import detector_graph
        from pipeline.export.hub import HUB_FOLDER, hub_files
        from pipeline.export.site import SITE, site_files
    bundle = Bundle.load(args.bundle)
    for folder, kind in ((args.web, SITE), (args.hub, HUB_FOLDER)):  # before any work
        if folder is not None:
            check_folder(folder, kind)
    if args.int8 is not None:
        bundle = int8_bundle(bundle, args.int8)
    if args.web is not None:
        _write_folder(args.web, site_files(bundle, args.runtime), SITE, "put it on any web server")
    if args.hub is not None:
        _write_folder(args.hub, hub_files(bundle), HUB_FOLDER, f"upload it with `hf upload NAME {args.hub}`")
    if args.out is not None:
        data = detector_graph(bundle, optional_inputs=not args.all_inputs).SerializeToString()
        write_bytes(args.out, data)
        _log(f"{args.out}: {len(data) / 1e6:.2f} MB; classes {', '.join(bundle.meta.class_names)}")
    return 0


def _check(args: ExportArgs) -> None:
    """Raise UserError, or OSError, on options that can be refused before the work."""
    if args.out is None and args.web is None and args.hub is None:
        raise UserError("nothing to write; give --out FILE.onnx, --web FOLDER or --hub FOLDER")
    if args.all_inputs and args.out is None:
        raise UserError("--all-inputs is for the file of --out; name one")
    if args.runtime is not None and args.web is None:
        raise UserError("--runtime is for the page of --web; name its folder")
    if args.web is not None and args.hub is not None and args.web.resolve() == args.hub.resolve():
        raise UserError(f"--web and --hub both name {args.web}; name two folders")
    if args.out is not None and args.out.suffix != ".onnx":
        raise UserError(f"--out {args.out}: is not named .onnx; give it this suffix")
    if args.out is not None and args.out.is_dir():
        raise UserError(f"--out {args.out}: is a folder; name a file")
    for flag, folder in (("--web", args.web), ("--hub", args.hub)):
        if args.out is not None and folder is not None and args.out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {args.out}: is in the folder of {flag}; name a file outside it")
    if args.out is not None:
        check_no_bundle_file("--out", args.out)
        check_writable_file(args.out)


def _write_folder(out: Path, files: Mapping[str, bytes], kind: FolderKind, advice: str) -> None:
    """Write a folder, and print how large it is and what to do with it."""
    write_folder(out, files, kind)
    _log(f"{out}: {len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB; {advice}")


def _log(line: str) -> None:
    """Print a line as it is."""
    console().print(line, markup=False, highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `python -m pipeline.export`; return the exit code."""
    return run_cli(lambda: run(parse_args(ExportArgs, argv, "pipeline.export", description=__doc__)))
