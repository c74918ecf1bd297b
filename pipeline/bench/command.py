"""Times the pipeline beside others, in one run on the same photos: tables, and one line of JSON as the last line.

Example: python -m pipeline.bench --data DIR --photos 50 --competitor stand-in

Parts (--parts): photos, everyone on the same photos, in turn, so that a busy machine slows all alike (with one thread;
with more threads than idle cores, ratios mislead too); sizes, the same on made photos of several sizes with 0 to 100
faces; command, `pipeline.detect` on one photo as a whole process; folder, photos per second from file to result with
one worker and with one for each core; memory, its peak over the photos once and over --memory-photos, the same ones again;
video, its peak over ten seconds and over --hours of a made video, annotated one written.
Beside ours stand facenet-pytorch's MTCNN, the naive pipeline (MTCNN, then a timm model in eager PyTorch, crop by
crop), and with --competitor a one-stage ONNX detector at 640x640. All look for the same smallest face; each keeps its own
thresholds. Photos that facenet-pytorch cannot search are left out for all.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import onnxruntime

from common.cli import console, program_name, refuse_renamed, requires_extra, run_cli
from common.errors import UserError
from common.memory import limit_malloc_arenas
from common.parallel import usable_cores
from pipeline.bench import photos as bench_photos
from pipeline.bench import runs as bench_runs
from pipeline.bench.competitors import Naive, OneStage, Ours
from pipeline.evaluate.report import Table
from pipeline.inference.bundle import Bundle
from pipeline.inference.device import Device

Part = Literal["photos", "sizes", "command", "folder", "memory", "video"]
# ONNX Runtime's threads go on spinning for 40 ms after a call and would take the next one's cores.
REST = 0.1  # s


# The present flag by its name in earlier versions.
RENAMED_FLAGS = {"--against": "--competitor", "--many": "--memory-photos"}


@dataclass(frozen=True)
class BenchArgs:
    """Time the pipeline and its stages beside others, on the same photos."""

    data: Path | None = None
    """Photos: a folder (annotated or not), searched to the bottom, or one photo; default: a portrait in six sizes."""
    photos: int = 50
    """How many of them, evenly spaced."""
    parts: tuple[Part, ...] = ("photos", "sizes", "command", "folder", "memory")
    """What to measure."""
    competitor: Path | None = None
    """A one-stage detector as an ONNX file; the word stand-in makes one as large as YOLO11n, with random weights."""
    rounds: int = 3
    """How often each photo, process or folder is timed; the median counts."""
    bundle: Path | None = None
    """Bundle directory; the default bundle when none is named."""
    min_face: float | None = None
    """Smallest face that all look for, pixels; default: the bundle's, which grows with large photos."""
    threads: int = 1
    """Threads for each net."""
    device: Device = "cpu"
    """What our nets and the one-stage detector run on."""
    naive_model: str = "mobilenetv3_small_100"
    """The naive pipeline's timm model."""
    memory_photos: int = 1000
    """How many photos the memory part goes through: the chosen ones over and over."""
    hours: float = 2.0
    """How long the video part's long video is; of each second one frame is looked at."""


def run(args: BenchArgs) -> int:
    """Measures, prints the tables and the line of JSON."""
    _check(args)
    limit_malloc_arenas()  # as pipeline.detect has it
    bundle = Bundle.load(args.bundle)
    with requires_extra("train"):
        import torch  # noqa: F401  # missing, it is said now, not after minutes
    ours = Ours(bundle, args.min_face, args.threads, args.device)
    naive = Naive(args.naive_model, ours.smallest, args.device)
    one_stage = None if args.competitor is None else OneStage(args.competitor, args.threads, args.device)
    field = bench_photos.Field(ours, naive, one_stage, args.rounds, REST if args.threads > 1 else 0.0)
    record: dict[str, Any] = {
        "machine": machine(),
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
    with ExitStack() as stack:
        stack.enter_context(same_threads(args.threads))
        data = args.data
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            bench_photos.write_portraits(data)
            record["notes"].append("no --data: one portrait in several sizes was timed")
        photos, notes = bench_photos.find_photos(data, args.photos)
        usable, left_out = bench_photos.usable_photos(field, photos)
        record["notes"] += [*notes, *left_out]
        tables = _measure(args, field, usable, record)
    out = console()
    for table in tables:
        out.print(table.rich())
    for fact in (*_facts(record), *record["notes"]):
        out.print(f"- {fact}", markup=False, highlight=False)
    print(json.dumps(record))
    return 0


def _measure(
    args: BenchArgs, field: bench_photos.Field, photos: Sequence[bench_photos.BenchPhoto], record: dict[str, Any]
) -> list[Table]:
    """Goes through the parts asked for; adds each to the record."""
    names = [photo.name for photo in photos]
    options = ["--threads", str(args.threads), "--device", args.device]
    options += [] if args.bundle is None else ["--bundle", str(args.bundle)]
    options += [] if args.min_face is None else ["--min-face", str(args.min_face)]
    tables = []
    if "photos" in args.parts:
        record["photos"] = bench_photos.time_photos(field, photos)
        tables += bench_photos.photos_tables(record["photos"])
    if "sizes" in args.parts:
        record["sizes"] = bench_photos.time_sizes(field, bench_photos.SIZES, bench_photos.FACES)
        record["notes"] += [one["failing"] for one in record["sizes"] if one["failing"]]
        tables.append(bench_photos.sizes_table(record["sizes"]))
    if "folder" in args.parts:
        cores = usable_cores()
        record["folder"] = bench_runs.time_folder(
            field.ours.predictor, field.naive, names, args.rounds, cores, args.min_face
        )
        tables.append(bench_runs.folder_table(record["folder"]))
    if "command" in args.parts:
        record["command"] = bench_runs.time_command(names[0], options, args.rounds)
        tables.append(bench_runs.command_table(record["command"]))
    if "memory" in args.parts:
        record["memory"] = bench_runs.measure_memory(names, args.memory_photos, options)
        tables.append(bench_runs.memory_table(record["memory"]))
    if "video" in args.parts:
        record["video"] = bench_runs.measure_video(args.hours * 3600, options)
        tables.append(bench_runs.video_table(record["video"]))
    return tables


def _check(args: BenchArgs) -> None:
    """Raises UserError on options out of range."""
    numbers = (
        ("--photos", args.photos), ("--rounds", args.rounds), ("--threads", args.threads), ("--memory-photos", args.memory_photos),
    )  # fmt: skip
    for name, value in numbers:
        if value < 1:
            raise UserError(f"{name} is {value}, must be 1 or more")
    if args.min_face is not None and not 1 <= args.min_face < np.inf:
        raise UserError(f"--min-face is {args.min_face}, must be 1 pixel or more")
    if not 0 < args.hours < np.inf:
        raise UserError(f"--hours is {args.hours:g}, must be above 0")
    if not args.parts:
        raise UserError("--parts names nothing to measure")


@contextmanager
def same_threads(threads: int) -> Iterator[None]:
    """PyTorch and OpenCV, which our cascade resizes with, use this many threads inside the block."""
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def machine() -> dict[str, Any]:
    """What the figures depend on: the processor, its cores that this process may use, their load of the last minute."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": _cpu(Path("/proc/cpuinfo")), "cores": usable_cores(), "load": load, "system": platform.platform()}


def _cpu(cpuinfo: Path) -> str:
    """The processor's model, as far as the system tells."""
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what the detectors run on."""
    import torch

    return {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "facenet-pytorch": version("facenet-pytorch"),
        "timm": version("timm"),
    }


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
    """Command line of `python -m pipeline.bench`."""

    def command() -> int:
        import tyro

        refuse_renamed(argv, RENAMED_FLAGS)
        return run(tyro.cli(BenchArgs, args=argv, description=__doc__, prog=program_name("pipeline.bench")))

    return run_cli(command)
