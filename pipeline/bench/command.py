"""Time the pipeline and other detectors in one run on the same photos: tables, and one line of JSON as the last line.

Example: python -m pipeline.bench --data DIR --photos 50 --competitor stand-in

Parts (--parts):
  photos: all detectors in turn on the same photos, so that a busy machine slows all alike. With more threads than
    idle cores, ratios mislead even so.
  sizes: the same on synthetic photos of several sizes with 0 to 100 faces.
  profile: our own time on these synthetic photos, net by net and step by step.
  command: `pipeline.detect` on one photo as a whole process.
  folder: photos per second from file to result, with one worker and with one per core.
  memory: the peak over the photos once, and over --memory-photos, the same ones repeated.
  export: the exported ONNX file of pipeline.export against our own code: same faces, CPU time.
  torch: the nets of a training (--training) in PyTorch, on --device, by 1, 16 and 64 photos a call.
  video: the peak over ten seconds and over --hours of a synthetic video, with an annotated video written.
  rates: frames per second on synthetic videos, by --frame-stride, --follow and --motion.

The other detectors are facenet-pytorch's MTCNN and the naive pipeline: MTCNN, then a timm model in eager PyTorch, crop
by crop. --competitor adds a one-stage ONNX detector at 640x640. All look for the same smallest face; each keeps its
own thresholds. Photos that facenet-pytorch cannot search are left out for all.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.errors import UserError
from common.memory import limit_malloc_arenas
from common.parallel import usable_cores
from pipeline.bench import exported as bench_exported
from pipeline.bench import photos as bench_photos
from pipeline.bench import profile as bench_profile
from pipeline.bench import runs as bench_runs
from pipeline.bench import torch_nets as bench_torch
from pipeline.bench import video_rates as bench_rates
from pipeline.bench.competitors import NaivePipeline, OneStageDetector, OwnPipeline
from pipeline.bench.environment import machine_info, same_threads, versions
from pipeline.evaluate.report import Table
from pipeline.inference.bundle import Bundle, bundle_folder
from pipeline.inference.device import Device

Part = Literal["photos", "sizes", "profile", "command", "folder", "memory", "video", "rates", "export", "torch"]
# ONNX Runtime's threads spin for 40 ms after a call and would take the next call's cores.
REST = 0.1  # s
# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--against": "--competitor", "--many": "--memory-photos"}


@dataclass(frozen=True)
class BenchArgs:
    """Time the pipeline, its stages and other detectors on the same photos."""

    data: Path | None = None
    """Photos: a folder, searched with all subfolders, or one photo; default: a portrait in six sizes."""
    photos: int = 50
    """Number of photos to use, evenly spaced."""
    parts: tuple[Part, ...] = ("photos", "sizes", "command", "folder", "memory")
    """What to measure."""
    competitor: Path | None = None
    """A one-stage detector as an ONNX file; the word stand-in makes a YOLO11n-sized net with random weights."""
    rounds: int = 3
    """How often each photo, process or folder is timed; the median counts."""
    bundle: Path | None = None
    """Bundle directory, or a bundle of the project by name; by default the default bundle."""
    min_face: float | None = None
    """Smallest face that all look for, pixels; default: the bundle's, which grows with large photos."""
    threads: int = 1
    """Threads for each net."""
    device: Device = "cpu"
    """Device of all detectors. cuda needs onnxruntime-gpu, and PyTorch's CUDA for the naive pipeline and `torch`."""
    training: Path | None = None
    """Folder of one training, for the part `torch`: with cascade and runs, such as pipeline.train_all's part."""
    naive_model: str = "mobilenetv3_small_100"
    """The naive pipeline's timm model."""
    memory_photos: int = 1000
    """Number of photos in the memory part: the chosen ones, repeated."""
    hours: float = 2.0
    """Length of the video part's long video; one frame per second is searched."""


def run(args: BenchArgs) -> int:
    """Measure; print the tables and the line of JSON; return the exit code."""
    _check(args)
    limit_malloc_arenas()  # as pipeline.detect does
    bundle = Bundle.load(args.bundle)
    with requires_extra("train"):
        import torch  # noqa: F401  # report a missing package now, not after minutes
    # PyTorch alone needs the GPU for its part.
    device = "cpu" if args.parts == ("torch",) else args.device
    ours = OwnPipeline(bundle, args.min_face, args.threads, device)
    naive = NaivePipeline(args.naive_model, ours.min_face_for, device)
    one_stage = None if args.competitor is None else OneStageDetector(args.competitor, args.threads, device)
    setup = bench_photos.BenchSetup(ours, naive, one_stage, args.rounds, REST if args.threads > 1 else 0.0)
    record = _describe(args, bundle)
    with ExitStack() as stack:
        stack.enter_context(same_threads(args.threads))
        data = args.data
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            bench_photos.write_portraits(data)
            record["notes"].append("no --data: one portrait in several sizes was timed")
        photos, notes = bench_photos.find_photos(data, args.photos)
        usable, left_out = bench_photos.usable_photos(setup, photos)
        record["notes"] += [*notes, *left_out]
        tables = _measure(args, setup, usable, record)
    out = console()
    for table in tables:
        out.print(table.rich())
    for fact in (*_facts(record), *record["notes"]):
        out.print(f"- {fact}", markup=False, highlight=False)
    print(json.dumps(record))
    return 0


def _describe(args: BenchArgs, bundle: Bundle) -> dict[str, Any]:
    """Return what the figures depend on, the start of the record."""
    return {
        "machine": machine_info(),
        "versions": versions(),
        "threads": args.threads,
        "device": args.device,
        "bundle": {"name": bundle.path.resolve().name, "cascade": bundle.meta.cascade},
        "min_face": bundle.meta.search.min_face if args.min_face is None else args.min_face,
        "min_score": bundle.meta.score_threshold,
        "naive_model": args.naive_model,
        "data": None if args.data is None else str(args.data),
        "rounds": args.rounds,
        "notes": [],
    }


def _measure(
    args: BenchArgs, setup: bench_photos.BenchSetup, photos: Sequence[bench_photos.BenchPhoto], record: dict[str, Any]
) -> list[Table]:
    """Measure the parts asked for; add each to the record and return the tables."""
    names = [photo.name for photo in photos]
    # Only what differs from the defaults of `detect`, which starts sooner without flags.
    options = [] if args.threads == 1 else ["--threads", str(args.threads)]
    options += [] if args.device == "cpu" else ["--device", args.device]
    options += [] if args.bundle is None else ["--bundle", str(bundle_folder(args.bundle).resolve())]
    options += [] if args.min_face is None else ["--min-face", str(args.min_face)]
    predictor, training = setup.ours.predictor, args.training or Path()
    min_face, threads, device, rounds = args.min_face, args.threads, args.device, args.rounds
    parts: dict[Part, tuple[Callable[[], Any], Callable[[Any], list[Table]]]] = {
        "photos": (lambda: bench_photos.time_photos(setup, photos), bench_photos.photos_tables),
        "sizes": (lambda: bench_photos.time_sizes(setup), bench_photos.sizes_tables),
        "profile": (
            lambda: bench_profile.profile_sizes(predictor.bundle, min_face, threads, device, rounds),
            bench_profile.profile_tables,
        ),
        "folder": (
            lambda: bench_runs.time_folder(predictor, setup.naive, names, rounds, usable_cores(), min_face),
            bench_runs.folder_tables,
        ),
        "command": (lambda: bench_runs.time_command(names[0], options, rounds), bench_runs.command_tables),
        "memory": (lambda: bench_runs.measure_memory(names, args.memory_photos, options), bench_runs.memory_tables),
        "export": (
            lambda: bench_exported.compare_exported(predictor, photos, min_face, threads, rounds),
            bench_exported.exported_tables,
        ),
        "torch": (
            lambda: bench_torch.time_torch(predictor.bundle, training, photos, min_face, threads, device, rounds),
            bench_torch.torch_tables,
        ),
        "video": (lambda: bench_runs.measure_video(args.hours * 3600, options), bench_runs.video_tables),
        "rates": (lambda: bench_rates.time_videos(rounds, options), bench_rates.rates_tables),
    }
    tables = []
    for part, (measure, make_tables) in parts.items():
        if part in args.parts:
            record[part] = measure()
            tables += make_tables(record[part])
    record["notes"] += [one["failing"] for one in record.get("sizes", ()) if one["failing"]]
    return tables


def _check(args: BenchArgs) -> None:
    """Raise UserError on options out of range."""
    for name in ("photos", "rounds", "threads", "memory_photos"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; use 1 or more")
    if args.min_face is not None and not 1 <= args.min_face < np.inf:
        raise UserError(f"--min-face is {args.min_face}; use 1 pixel or more")
    if not 0 < args.hours < np.inf:
        raise UserError(f"--hours is {args.hours:g}; use a number above 0")
    if "export" in args.parts and args.device != "cpu":
        raise UserError(f"--parts export compares on the CPU; leave out --device {args.device}")
    if "torch" in args.parts:
        if args.training is None:
            raise UserError("--parts torch: needs --training, a folder of one training; a bundle has no PyTorch nets")
        bench_torch.check_device(args.device)
    if not args.parts:
        raise UserError("--parts names nothing to measure; name a part")


def _facts(record: dict[str, Any]) -> list[str]:
    cpu = record["machine"]
    load = "" if cpu["load"] is None else f", load {cpu['load']:.1f} before"
    return [
        f"median of {record['rounds']} rounds; faces from {record['min_face']:g} px on (larger in large photos)",
        f"{cpu['cpu']}, {cpu['cores']} cores{load}; threads for each net: {record['threads']}, on {record['device']}",
        f"bundle {record['bundle']['name']}: {record['bundle']['cascade']} cascade; naive: {record['naive_model']}",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `python -m pipeline.bench`; return the exit code."""

    def command() -> int:
        return run(parse_args(BenchArgs, argv, "pipeline.bench", RENAMED_FLAGS, description=__doc__))

    return run_cli(command)
