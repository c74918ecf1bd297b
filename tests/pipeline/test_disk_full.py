"""Every command that writes, on a disk that fills up and in a folder that takes nothing: one clear line, nothing lost.

The disks are real ones (tests/pipeline/small_disk.py), as small as it takes to fail at the first file, midway and last.
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

from tests.helpers.bound import as_anyone, permissions_bind
from tests.helpers.commands import (
    Command,
    build_crops,
    check_whole,
    contents,
    finetune,
    run_whole,
    start,
    train,
    write_data,
    write_different,
    write_drawn,
    write_photos,
)
from tests.helpers.made_videos import blob_video
from tests.helpers.small_disk import PAGE, Ended, pages, run_on

PLENTY = 1 << 28
SPACE, READ_ONLY, DENIED = "No space left on device", "Read-only file system", "Permission denied"
MENDS = ("make room", "name another place", "change its permissions")


class Made:
    """What the commands work on, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def photos(self) -> Path:
        return write_photos(self._folder / "photos", 6)

    @cached_property
    def data(self) -> Path:
        return write_data(self._folder / "annotated" / "data", ("with_mask", "without_mask"))

    @cached_property
    def different(self) -> Path:
        return write_different(self._folder / "different")

    @cached_property
    def drawn(self) -> Path:
        return write_drawn(self._folder / "drawn")

    @cached_property
    def video(self) -> Path:
        return blob_video(self._folder / "walk.mp4", frames=60)

    @cached_property
    def crops(self) -> Path:
        run_whole(build_crops(self.data, self._folder / "crops"), self._folder)
        return self._folder / "crops"

    @cached_property
    def run(self) -> Path:
        run_whole(train(self.crops, self._folder, 2, "trained"), self._folder)
        return self._folder / "trained" / "quick"


@dataclass(frozen=True)
class Case:
    """A command that writes into disk/. command: its arguments, given what is made and the folder in which it runs.

    sizes: of disks on which it must fail: as a share of what it writes in all, or in bytes. goes_on: a second run with
    room ends as an unbroken one. compared: the ends of the files' names that are the same after each run.
    """

    command: Callable[[Made, Path], Command]
    sizes: tuple[float, ...] = (0,)
    goes_on: bool = False
    compared: tuple[str, ...] = ("",)


def evaluate(made: Made, folder: Path) -> Command:
    splits = made.data.parent / "splits.csv"
    return ["-m", "pipeline.evaluate", "--data", made.data, "--splits", splits, "--bootstrap", "0", "--out", "disk/out"]


def detect(made: Made, folder: Path) -> Command:
    out = ["--out", "disk/out", "--csv", "disk/faces.csv", "--submission", "disk/submission.csv", "--workers", "2"]
    return ["-m", "pipeline.detect", made.photos, *out]


def preview(made: Made, folder: Path) -> Command:
    return [
        "-m",
        "stage2_classifier.transforms",
        "--crops",
        made.crops,
        "--preview",
        "disk/p.png",
        "--augment",
        "opencv",
    ]


def report(made: Made, folder: Path) -> Command:
    return ["-m", "stage2_classifier.report", made.run, "--crops", made.crops, "--out", "disk/out"]


def pack(made: Made, folder: Path) -> Command:
    return ["-m", "pipeline.pack", "--run", made.run, "--out", "disk/out"]


def batch(made: Made, folder: Path) -> Command:
    return ["-m", "pipeline.batch", made.photos, folder / "disk/faces.parquet", "--chunk", "2", "--workers", "2"]


def baseline(made: Made, folder: Path) -> Command:
    where = ["--data", made.data, "--splits", made.data.parent / "splits.csv", "--out", "disk/out"]
    return ["-m", "pipeline.baseline", *where, "--model", "ssdlite320_mobilenet_v3_large", "--threads", "1"]


def in_work(module: str, *more: str) -> Callable[[Made, Path], Command]:
    """A command whose --work-dir or, without it, --out takes everything on the way."""
    return lambda made, folder: ["-m", module, "--data", made.different, "--out", "disk/out", *more]


KEPT = (".safetensors", ".jsonl")
CASES = {
    "split": Case(lambda made, _: ["-m", "pipeline.split", "--data", made.different, "--out", "disk/splits.csv"]),
    "build_crops": Case(lambda made, _: build_crops(made.data, "disk/out"), (0, 0.3, 0.95), True),
    "detect": Case(detect, (0, 0.3, 0.95), True),
    "detect a video": Case(lambda made, _: ["-m", "pipeline.detect", made.video, "--out", "disk/out"], (0, 0.3, 0.7)),
    "evaluate": Case(evaluate, (0, 0.5, 0.95)),
    "batch": Case(batch, (0, 0.5)),
    "finetune": Case(lambda made, _: finetune(made.drawn, "disk/out"), (0, 0.6), True),
    "train": Case(lambda made, folder: train(made.crops, folder, 4, "disk/out"), (0, 0.5, 0.95), True, KEPT),
    "report": Case(report, (0, 0.5, 0.95)),
    "preview": Case(preview),
    "pack": Case(pack, (0, 0.5)),
    "train_all": Case(in_work("pipeline.train_all", "--work-dir", "disk/work", "--quick"), (0, 9 * PAGE)),
    "crossval": Case(in_work("pipeline.crossval", "--folds", "3"), (0, 9 * PAGE)),
    "tour": Case(in_work("docs.tour", "--work-dir", "disk/work"), (0, 9 * PAGE)),
    "demo": Case(lambda made, _: ["-m", "pipeline.demo", "--out", "disk/out"]),
    "baseline": Case(baseline, (0, 2 * PAGE)),
}
QUICKLY = ("split", "detect")  # the others are slow
FULL = [(name, size) for name, case in CASES.items() for size in case.sizes]


def marked(name: str, *values: Any) -> Any:
    marks = () if name in QUICKLY else (pytest.mark.slow,)
    return pytest.param(name, *values, id="-".join(map(str, (name, *values))), marks=marks)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def unbroken(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The disk of a case's command that had room, run when it is first asked for."""
    done: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp("unbroken")
            (folder / "disk").mkdir()
            run_whole(CASES[name].command(made, folder), folder)
            done[name] = folder / "disk"
        return done[name]

    return get


def complaints(said: str) -> list[str]:
    """The lines on standard error, without warnings of what is learned from and the fine-tuning's epochs."""
    usual = re.compile(r"warning: |[pro]net epoch \d+/\d+  ")
    return [line for line in said.splitlines() if not usual.match(line)]


def check_refused(ended: Ended, why: str, place: str = "disk") -> None:
    """One line names the file and the mend, and what is there is whole."""
    lines = complaints(ended.said)
    assert ended.code == 1, ended.said
    assert len(lines) == 1 and lines[0].startswith("error: "), ended.said
    assert why in lines[0] and place in lines[0] and any(mend in lines[0] for mend in MENDS), ended.said
    assert "Traceback" not in ended.printed
    check_whole(ended.left)


@pytest.mark.parametrize(("name", "size"), [marked(*each) for each in FULL])
def test_a_full_disk(made: Made, unbroken: Callable[[str], Path], tmp_path: Path, name: str, size: float) -> None:
    case, disk = CASES[name], tmp_path / "disk"
    disk.mkdir()
    (disk / "filler").write_bytes(b"x" * PAGE)
    room = int(size if size == 0 or size > 1 else size * pages(unbroken(name))) // PAGE * PAGE
    ended = run_on(disk, PAGE + room, case.command(made, tmp_path), tmp_path)
    check_refused(ended, SPACE)
    if case.goes_on:
        shutil.copytree(ended.left, disk, dirs_exist_ok=True)
        (disk / "filler").unlink()
        run_whole(case.command(made, tmp_path), tmp_path)
        expected, got = contents(unbroken(name)), contents(disk)
        assert set(got) == set(expected)
        assert [key for key in got if key.endswith(case.compared) and got[key] != expected[key]] == []


@pytest.mark.slow
def test_batch_goes_on_when_there_is_room(made: Made, unbroken: Callable[[str], Path], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    disk = tmp_path / "disk"
    disk.mkdir()
    ended = run_on(disk, 2 * PAGE, batch(made, tmp_path), tmp_path)
    check_refused(ended, SPACE)
    shutil.copytree(ended.left, disk, dirs_exist_ok=True)
    run_whole(batch(made, tmp_path), tmp_path)

    def rows(folder: Path) -> list[dict[str, Any]]:
        table = parquet.read_table(folder / "faces.parquet").to_pylist()
        return sorted(table, key=lambda row: (row["file"], row["face"] or 0))

    assert rows(disk) == rows(unbroken("batch"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "detect"])
def test_earlier_results_are_kept_on_a_full_disk(
    made: Made, unbroken: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    disk = tmp_path / "disk"
    shutil.copytree(unbroken(name), disk)
    command = CASES[name].command(made, tmp_path)
    if name == "train":
        command = [*(word for word in command if word != "--resume"), "--overwrite"]
    before = contents(disk)
    ended = run_on(disk, pages(disk), command, tmp_path)
    check_refused(ended, SPACE)
    kept = contents(ended.left)
    assert set(kept) <= set(before)
    if name == "detect":
        assert kept == before


@pytest.mark.parametrize("name", [marked(name) for name in CASES])
def test_a_read_only_disk(made: Made, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    check_refused(
        run_on(tmp_path / "disk", PLENTY, CASES[name].command(made, tmp_path), tmp_path, read_only=True), READ_ONLY
    )


@contextmanager
def denied(path: Path) -> Iterator[None]:
    """A path that may not be written inside the block."""
    if not permissions_bind():
        pytest.skip("permissions do not bind here")
    before = path.stat().st_mode
    path.chmod(before & ~0o222)
    try:
        yield
    finally:
        path.chmod(before)


def run_bound(command: Command, folder: Path) -> Ended:
    """Runs a command that permissions bind."""
    process = start(command, folder, stdout=subprocess.PIPE, preexec_fn=as_anyone)
    printed, said = process.communicate()
    return Ended(process.returncode, printed.decode(), said.decode(), folder / "disk")


@pytest.mark.parametrize("name", [marked(name) for name in CASES])
def test_a_folder_without_permission(made: Made, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    with denied(tmp_path / "disk"):
        check_refused(run_bound(CASES[name].command(made, tmp_path), tmp_path), DENIED)
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize("name", [marked(name) for name in CASES])
def test_a_place_below_a_file(made: Made, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").write_text("mine")
    process = start(CASES[name].command(made, tmp_path), tmp_path)
    _, said = process.communicate()
    assert process.returncode == 1
    (line,) = complaints(said.decode())
    assert line.startswith("error: ") and "disk" in line and "; " in line
    assert (tmp_path / "disk").read_text() == "mine"


@pytest.mark.parametrize("name", [marked("split"), marked("detect"), marked("preview")])
def test_a_file_without_permission_is_not_replaced(made: Made, tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    file = tmp_path / "disk" / {"split": "splits.csv", "detect": "faces.csv", "preview": "p.png"}[name]
    file.write_text("mine")
    with denied(file):
        check_line = run_bound(CASES[name].command(made, tmp_path), tmp_path)
    assert check_line.code == 1 and check_line.said.count("\n") == 1
    assert DENIED in check_line.said and str(file.relative_to(tmp_path)) in check_line.said
    assert file.read_text() == "mine"


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
    """Told also when only its last piece does not fit; what fitted plays."""
    (tmp_path / "disk").mkdir()
    ended = run_on(tmp_path / "disk", 50 * PAGE if frames > 50 else 10 * PAGE, ["-c", LIVE, str(frames)], tmp_path)
    assert (ended.code, ended.said) == (1, f"error: disk/live.mp4: {SPACE}; make room or name another place\n")
    played = 0
    with suppress(av.error.FFmpegError), av.open(str(ended.left / "live.mp4")) as container:
        for _ in container.decode(video=0):
            played += 1
    assert frames < 50 or played >= 20


FULL_DEVICE = Path("/dev/full")
SAYING: dict[str, Callable[[Made], Command]] = {
    "detect": lambda made: ["-m", "pipeline.detect", made.photos, "--out", "out"],
    "split": lambda made: ["-m", "pipeline.split", "--data", made.different],
    "help": lambda made: ["-m", "pipeline.detect", "--help"],
    "train": lambda made: ["-m", "stage2_classifier.train", "--list"],
    "finetune": lambda made: ["-m", "stage1_faces.finetune", "--help"],
}


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("train", "finetune"))) for n in SAYING]
)
def test_what_is_printed_into_a_full_disk(made: Made, tmp_path: Path, name: str) -> None:
    with FULL_DEVICE.open("wb") as full:
        process = start(SAYING[name](made), tmp_path, stdout=full)
        _, said = process.communicate()
    assert said == b"error: standard output: No space left on device; make room or name another place\n"
    assert process.returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="pipes of this kind")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("train", "finetune"))) for n in SAYING]
)
def test_a_reader_that_has_left(made: Made, tmp_path: Path, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(SAYING[name](made), tmp_path, stdout=writing)
    os.close(writing)
    _, said = process.communicate()
    assert said == b""
    assert process.returncode in (0, 1)


def test_a_standard_error_that_is_full(tmp_path: Path) -> None:
    if not FULL_DEVICE.exists():
        pytest.skip("needs a device that is always full")
    with FULL_DEVICE.open("wb") as full:
        process = start(["-m", "pipeline.detect", "nothing.jpg"], tmp_path, stderr=full)
        process.communicate()
    assert process.returncode == 1
