"""Every command that writes, on a full disk and in a read-only folder: one clear error line, and no file is lost.

The disks are real (tests/helpers/small_disk.py). Their sizes make a command fail at the first file, midway, or late.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import pytest

from tests.helpers.commands import (
    Command,
    build_crops,
    check_files,
    file_contents,
    finetune,
    run_to_end,
    start,
    train,
    write_data,
    write_distinct_photos,
    write_drawn_photos,
    write_photos,
)
from tests.helpers.js_runtime import WEB_RUNTIME, needs_web_runtime
from tests.helpers.small_disk import PAGE, CommandResult, disk_usage, run_on_disk
from tests.helpers.unprivileged import can_drop_privileges, drop_root_privileges
from tests.helpers.video.made_videos import blob_video

LARGE_DISK = 1 << 28
SPACE, READ_ONLY, DENIED = "No space left on device", "Read-only file system", "Permission denied"
FIXES = ("make room", "name another place", "change its permissions")


class Inputs:
    """Input of the commands, each made at the first access."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def photos(self) -> Path:
        return write_photos(self._folder / "photos", 6)

    @cached_property
    def data(self) -> Path:
        return write_data(self._folder / "annotated" / "data", ("with_mask", "without_mask"))

    @cached_property
    def distinct_photos(self) -> Path:
        return write_distinct_photos(self._folder / "different")

    @cached_property
    def drawn(self) -> Path:
        return write_drawn_photos(self._folder / "drawn")

    @cached_property
    def video(self) -> Path:
        return blob_video(self._folder / "walk.mp4", frames=60)

    @cached_property
    def crops(self) -> Path:
        run_to_end(build_crops(self.data, self._folder / "crops"), self._folder)
        return self._folder / "crops"

    @cached_property
    def run(self) -> Path:
        run_to_end(train(self.crops, self._folder, 2, "trained"), self._folder)
        return self._folder / "trained" / "quick"


@dataclass(frozen=True)
class Case:
    """A command that writes into disk/.

    command: returns its arguments for the inputs and the working folder.
    sizes: of disks that are too small: relative to all that the command writes (up to 1), or in bytes.
    resumes: whether a second run with space gives the files of an uninterrupted run.
    compared: suffixes of the files that are equal after each run.
    """

    command: Callable[[Inputs, Path], Command]
    sizes: tuple[float, ...] = (0,)
    resumes: bool = False
    compared: tuple[str, ...] = ("",)


def evaluate(inputs: Inputs, folder: Path) -> Command:
    splits = inputs.data.parent / "splits.csv"
    options = ["--splits", splits, "--bootstrap", "0", "--out", "disk/out"]
    return ["-m", "pipeline.evaluate", "--data", inputs.data, *options]


def detect(inputs: Inputs, folder: Path) -> Command:
    out = ["--out", "disk/out", "--csv", "disk/faces.csv", "--submission", "disk/submission.csv", "--workers", "2"]
    return ["-m", "pipeline.detect", inputs.photos, *out]


def preview(inputs: Inputs, folder: Path) -> Command:
    options = ["--preview", "disk/p.png", "--augment", "opencv"]
    return ["-m", "stage2_classifier.transforms", "--crops", inputs.crops, *options]


def report(inputs: Inputs, folder: Path) -> Command:
    return ["-m", "stage2_classifier.report", inputs.run, "--crops", inputs.crops, "--out", "disk/out"]


def pack(inputs: Inputs, folder: Path) -> Command:
    return ["-m", "pipeline.pack", "--run", inputs.run, "--out", "disk/out"]


def batch(inputs: Inputs, folder: Path) -> Command:
    return ["-m", "pipeline.batch", inputs.photos, folder / "disk/faces.parquet", "--chunk", "2", "--workers", "2"]


def baseline(inputs: Inputs, folder: Path) -> Command:
    where = ["--data", inputs.data, "--splits", inputs.data.parent / "splits.csv", "--out", "disk/out"]
    return ["-m", "pipeline.baseline", *where, "--model", "ssdlite320_mobilenet_v3_large", "--threads", "1"]


def with_work_dir(module: str, *more: str) -> Callable[[Inputs, Path], Command]:
    """Return a command whose intermediate files are in --work-dir or, without that flag, in --out."""
    return lambda inputs, folder: ["-m", module, "--data", inputs.distinct_photos, "--out", "disk/out", *more]


REPRODUCED = (".safetensors", ".jsonl")
CASES = {
    "split": Case(
        lambda inputs, _: ["-m", "pipeline.split", "--data", inputs.distinct_photos, "--out", "disk/splits.csv"]
    ),
    "check": Case(with_work_dir("pipeline.check", "--json", "disk/check.json"), (0, 0.5, 0.95)),
    "build_crops": Case(lambda inputs, _: build_crops(inputs.data, "disk/out"), (0, 0.3, 0.95), True),
    "detect": Case(detect, (0, 0.3, 0.95), True),
    "video": Case(lambda inputs, _: ["-m", "pipeline.detect", inputs.video, "--out", "disk/out"], (0, 0.3, 0.7)),
    "evaluate": Case(evaluate, (0, 0.5, 0.95)),
    "batch": Case(batch, (0, 0.5)),
    "finetune": Case(lambda inputs, _: finetune(inputs.drawn, "disk/out"), (0, 0.6), True),
    "train": Case(lambda inputs, folder: train(inputs.crops, folder, 4, "disk/out"), (0, 0.5, 0.95), True, REPRODUCED),
    "report": Case(report, (0, 0.5, 0.95)),
    "preview": Case(preview),
    "pack": Case(pack, (0, 0.5)),
    "train_all": Case(with_work_dir("pipeline.train_all", "--work-dir", "disk/work", "--quick"), (0, 9 * PAGE)),
    "crossval": Case(with_work_dir("pipeline.crossval", "--folds", "3"), (0, 9 * PAGE)),
    "tour": Case(with_work_dir("docs.tour", "--work-dir", "disk/work"), (0, 9 * PAGE)),
    "demo": Case(lambda inputs, _: ["-m", "pipeline.detect.demo", "--out", "disk/out"]),
    "export": Case(lambda inputs, _: ["-m", "pipeline.export", "--out", "disk/detector.onnx"], (0, 0.5)),
    "hub": Case(lambda inputs, _: ["-m", "pipeline.export", "--hub", "disk/out"], (0, 0.5)),
    "web": Case(
        lambda inputs, _: ["-m", "pipeline.export", "--web", "disk/out", "--runtime", WEB_RUNTIME], (0, 0.3, 0.7)
    ),
    "baseline": Case(baseline, (0, 2 * PAGE)),
}
FAST = ("split", "detect")  # the tests of all other commands are slow
FULL_DISKS = [(name, size) for name, case in CASES.items() for size in case.sizes]


def with_slow_mark(name: str, *values: Any) -> Any:
    """Return parameters for a command's test, marked as slow unless the command is fast."""
    marks = () if name in FAST else (pytest.mark.slow, needs_web_runtime) if name == "web" else (pytest.mark.slow,)
    return pytest.param(name, *values, id="-".join(map(str, (name, *values))), marks=marks)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def uninterrupted(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder that a case's command wrote with enough space; it runs at the first access."""
    done: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp("uninterrupted")
            (folder / "disk").mkdir()
            run_to_end(CASES[name].command(inputs, folder), folder)
            done[name] = folder / "disk"
        return done[name]

    return get


def error_lines(stderr: str) -> list[str]:
    """Return the lines of standard error without warnings and the epochs of the fine-tuning."""
    other = re.compile(r"warning: |[pro]net epoch \d+/\d+  ")
    return [line for line in stderr.splitlines() if not other.match(line)]


def check_refused(result: CommandResult, reason: str) -> None:
    """Assert that one line names the file, the reason and the fix, and that the files on the disk are complete."""
    lines = error_lines(result.stderr)
    assert result.code == 1, result.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert reason in lines[0] and "disk" in lines[0] and any(fix in lines[0] for fix in FIXES), result.stderr
    assert "Traceback" not in result.stdout
    check_files(result.files)


@pytest.mark.parametrize(("name", "size"), [with_slow_mark(*each) for each in FULL_DISKS])
def test_a_full_disk(
    inputs: Inputs, uninterrupted: Callable[[str], Path], tmp_path: Path, name: str, size: float
) -> None:
    case, disk = CASES[name], tmp_path / "disk"
    disk.mkdir()
    (disk / "filler").write_bytes(b"x" * PAGE)
    space = int(size if size == 0 or size > 1 else size * disk_usage(uninterrupted(name))) // PAGE * PAGE
    result = run_on_disk(disk, PAGE + space, case.command(inputs, tmp_path), tmp_path)
    check_refused(result, SPACE)
    if case.resumes:
        shutil.copytree(result.files, disk, dirs_exist_ok=True)
        (disk / "filler").unlink()
        run_to_end(case.command(inputs, tmp_path), tmp_path)
        expected, got = file_contents(uninterrupted(name)), file_contents(disk)
        assert set(got) == set(expected)
        assert [key for key in got if key.endswith(case.compared) and got[key] != expected[key]] == []


@pytest.mark.slow
def test_batch_resumes_when_there_is_space(
    inputs: Inputs, uninterrupted: Callable[[str], Path], tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    disk = tmp_path / "disk"
    disk.mkdir()
    result = run_on_disk(disk, 2 * PAGE, batch(inputs, tmp_path), tmp_path)
    check_refused(result, SPACE)
    shutil.copytree(result.files, disk, dirs_exist_ok=True)
    run_to_end(batch(inputs, tmp_path), tmp_path)

    def rows(folder: Path) -> list[dict[str, Any]]:
        table = parquet.read_table(folder / "faces.parquet").to_pylist()
        return sorted(table, key=lambda row: (row["file"], row["face"] or 0))

    assert rows(disk) == rows(uninterrupted("batch"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "detect"])
def test_earlier_results_are_kept_on_a_full_disk(
    inputs: Inputs, uninterrupted: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    disk = tmp_path / "disk"
    shutil.copytree(uninterrupted(name), disk)
    command = CASES[name].command(inputs, tmp_path)
    if name == "train":
        command = [*(word for word in command if word != "--resume"), "--overwrite"]
    before = file_contents(disk)
    result = run_on_disk(disk, disk_usage(disk), command, tmp_path)
    check_refused(result, SPACE)
    kept = file_contents(result.files)
    assert set(kept) <= set(before)
    if name == "detect":
        assert kept == before


@pytest.mark.parametrize("name", [with_slow_mark(name) for name in CASES])
def test_a_read_only_disk(inputs: Inputs, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    check_refused(
        run_on_disk(tmp_path / "disk", LARGE_DISK, CASES[name].command(inputs, tmp_path), tmp_path, read_only=True),
        READ_ONLY,
    )


@contextmanager
def write_protected(path: Path) -> Iterator[None]:
    """Make a path read-only in the block."""
    if not can_drop_privileges():
        pytest.skip("root's privileges cannot be dropped here")
    before = path.stat().st_mode
    path.chmod(before & ~0o222)
    try:
        yield
    finally:
        path.chmod(before)


def run_unprivileged(command: Command, folder: Path) -> CommandResult:
    """Run a command that obeys file permissions."""
    process = start(command, folder, stdout=subprocess.PIPE, preexec_fn=drop_root_privileges)
    stdout, stderr = process.communicate()
    return CommandResult(process.returncode, stdout.decode(), stderr.decode(), folder / "disk")


@pytest.mark.parametrize("name", [with_slow_mark(name) for name in CASES])
def test_a_folder_without_permission(inputs: Inputs, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    with write_protected(tmp_path / "disk"):
        check_refused(run_unprivileged(CASES[name].command(inputs, tmp_path), tmp_path), DENIED)
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("name", [with_slow_mark(name) for name in CASES])
def test_a_folder_below_a_file(inputs: Inputs, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").write_text("kept")
    process = start(CASES[name].command(inputs, tmp_path), tmp_path)
    _, stderr = process.communicate()
    assert process.returncode == 1
    (line,) = error_lines(stderr.decode())
    assert line.startswith("error: ") and "disk" in line and "; " in line
    assert (tmp_path / "disk").read_text() == "kept"


@pytest.mark.parametrize("name", [with_slow_mark("split"), with_slow_mark("detect"), with_slow_mark("preview")])
def test_a_file_without_permission_is_not_replaced(inputs: Inputs, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    file = tmp_path / "disk" / {"split": "splits.csv", "detect": "faces.csv", "preview": "p.png"}[name]
    file.write_text("kept")
    with write_protected(file):
        result = run_unprivileged(CASES[name].command(inputs, tmp_path), tmp_path)
    assert result.code == 1 and result.stderr.count("\n") == 1
    assert DENIED in result.stderr and str(file.relative_to(tmp_path)) in result.stderr
    assert file.read_text() == "kept"


LIVE = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from pipeline.video.writer import growing_video
from common.cli import run_cli

def command():
    noise = np.random.default_rng(0)
    with growing_video(Path("disk/live.mp4"), Fraction(25)) as video:
        for k in range(int(sys.argv[1])):
            video.add(noise.integers(0, 255, (120, 160, 3), dtype=np.uint8), k / 25)
    return 0

sys.exit(run_cli(command))
"""


@pytest.mark.parametrize("frames", [20, 120])
def test_a_live_recording_on_a_full_disk(tmp_path: Path, frames: int) -> None:
    """The error is reported even if only the last fragment does not fit; the written part can be played."""
    (tmp_path / "disk").mkdir()
    pages = 50 if frames > 50 else 10
    result = run_on_disk(tmp_path / "disk", pages * PAGE, ["-c", LIVE, str(frames)], tmp_path)
    assert (result.code, result.stderr) == (1, f"error: disk/live.mp4: {SPACE}; make room or name another place\n")
    decoded = 0
    with suppress(av.error.FFmpegError), av.open(str(result.files / "live.mp4")) as container:
        for _ in container.decode(video=0):
            decoded += 1
    assert frames < 50 or decoded >= 20


FULL_DEVICE = Path("/dev/full")
PRINTING: dict[str, Callable[[Inputs], Command]] = {
    "detect": lambda inputs: ["-m", "pipeline.detect", inputs.photos, "--out", "out"],
    "split": lambda inputs: ["-m", "pipeline.split", "--data", inputs.distinct_photos],
    "help": lambda inputs: ["-m", "pipeline.detect", "--help"],
    "train": lambda inputs: ["-m", "stage2_classifier.train", "--list"],
    "finetune": lambda inputs: ["-m", "stage1_faces.finetune", "--help"],
}
PRINTED = [pytest.param(n, marks=[pytest.mark.slow] * (n in ("train", "finetune"))) for n in PRINTING]
needs_full_device = pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs a device that is always full")


@needs_full_device
@pytest.mark.parametrize("name", PRINTED)
def test_standard_output_on_a_full_disk(inputs: Inputs, tmp_path: Path, name: str) -> None:
    with FULL_DEVICE.open("wb") as full:
        process = start(PRINTING[name](inputs), tmp_path, stdout=full)
        _, stderr = process.communicate()
    assert stderr == b"error: standard output: No space left on device; make room or name another place\n"
    assert process.returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
@pytest.mark.parametrize("name", PRINTED)
def test_a_pipe_whose_reader_has_ended(inputs: Inputs, tmp_path: Path, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(PRINTING[name](inputs), tmp_path, stdout=writing)
    os.close(writing)
    _, stderr = process.communicate()
    assert stderr == b""
    assert process.returncode in (0, 1)


@needs_full_device
def test_standard_error_on_a_full_disk(tmp_path: Path) -> None:
    with FULL_DEVICE.open("wb") as full:
        process = start(["-m", "pipeline.detect", "nothing.jpg"], tmp_path, stderr=full)
        process.communicate()
    assert process.returncode == 1
