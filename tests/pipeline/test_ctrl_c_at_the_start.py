"""Ctrl-C in a command's first seconds, while it loads its packages and begins: one line, no traceback.

The start of Python itself, some hundredths of a second before our first line, is not checked. Next to the fixed DELAYS
there are a few random delays (CTRL_C_SEED).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from common.facemask import COMMANDS
from pipeline.bench.synthetic_photos import synthetic_photo
from tests.helpers.commands import (
    ENVIRONMENT,
    INTERRUPTED,
    ROOT,
    Command,
    build_crops,
    run_to_end,
    start,
    train,
    write_data,
    write_drawn_photos,
)

DELAYS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0)  # s after the start of the process
RANDOM_DELAYS = 3
SEED = int(os.environ.get("CTRL_C_SEED", time.time_ns() % 1_000_000))
LINE = re.compile(rb"interrupted(; [^\n]+)?\n")
# The files that run before Ctrl-C is handled.
FIRST_FILES = ("__main__.py", "__init__.py", "launcher.py")
MAX_STARTUP_SECONDS = 0.15  # CPU time of the start of Python; loading the packages takes several times that
TIMEOUT = 60  # s
ENTRY_FILES = {name: f"pipeline/{name}/__main__.py" for name in ("detect", "batch", "check")} | {
    "split": "pipeline/split.py"
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a large COCO dataset: each command takes longer than the longest delay."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    folder.mkdir()
    Image.fromarray(synthetic_photo(1600, 1200, 3, seed=1)).save(folder / "0.jpg")
    for k in range(1, 400):
        shutil.copy(folder / "0.jpg", folder / f"{k}.jpg")
    images = ",".join(f'{{"id": {k}, "file_name": "{k}.jpg"}}' for k in range(400))
    boxes = ",".join(f'{{"id": {k}, "image_id": {k}, "category_id": 0, "bbox": [9, 9, 40, 50]}}' for k in range(400))
    coco = f'{{"images": [{images}], "categories": [{{"id": 0, "name": "face"}}], "annotations": [{boxes}]}}'
    (folder / "_annotations.coco.json").write_text(coco)
    return folder


def detect(photos: Path, folder: Path) -> Command:
    return ["-m", "pipeline.detect", photos, "--out", folder / "out"]


def split(photos: Path, folder: Path) -> Command:
    return ["-m", "pipeline.split", "--data", photos, "--out", folder / "splits.csv"]


def check(photos: Path, folder: Path) -> Command:
    return ["-m", "pipeline.check", "--data", photos, "--out", folder / "check.html"]


def batch(photos: Path, folder: Path) -> Command:
    return ["-m", "pipeline.batch", photos, folder / "faces.parquet", "--workers", "2"]


@pytest.mark.parametrize("command", [detect, split, check, batch])
def test_on_photos(photos: Path, tmp_path: Path, command: Callable[[Path, Path], Command]) -> None:
    if command is batch and find_spec("pyarrow") is None:
        pytest.skip("needs pyarrow")
    check_interrupts(lambda folder: command(photos, folder), ENTRY_FILES[command.__name__], tmp_path)


def test_train(tmp_path: Path) -> None:
    data = write_data(tmp_path / "annotated" / "data")
    run_to_end(build_crops(data, tmp_path / "crops"), tmp_path)
    check_interrupts(lambda folder: train(tmp_path / "crops", folder, 500), "stage2_classifier/train.py", tmp_path)


def test_finetune(tmp_path: Path) -> None:
    drawn = write_drawn_photos(tmp_path / "data")
    files = ["--data", drawn, "--splits", drawn / "splits.csv", "--threads", "1"]
    command = ["-m", "stage1_faces.finetune", *files]
    check_interrupts(lambda folder: [*command, "--out", folder / "run"], "stage1_faces/finetune.py", tmp_path)


def check_interrupts(command: Callable[[Path], Command], module: str, tmp_path: Path) -> None:
    """Start a command once per delay, in a new folder, and send Ctrl-C to its group, as a terminal does."""
    rng = random.Random(SEED)
    delays = (*DELAYS, *(rng.uniform(DELAYS[0], DELAYS[-1]) for _ in range(RANDOM_DELAYS)))
    for number, delay in enumerate(delays):
        folder = tmp_path / f"interrupted{number}"
        folder.mkdir()
        process = start(command(folder), folder)
        time.sleep(delay)
        assert process.poll() is None, (process.communicate()[1] or b"it ended too early").decode()
        computed = cpu_seconds(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=TIMEOUT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode in INTERRUPTED and LINE.fullmatch(stderr):
            continue
        text = stderr.decode(errors="replace")
        report = f"seed {SEED}, {delay:.2f} s: code {process.returncode}, standard error {text}"
        assert process.returncode in (1, -signal.SIGINT) and is_before_handler(text, module), report
        assert computed <= MAX_STARTUP_SECONDS, report
        print(f"\n{module}: {delay:.2f} s ({computed} s of CPU time) is still the start of Python")


def is_before_handler(stderr: str, entry_file: str) -> bool:
    """Return whether a traceback (or none) is from the time before Ctrl-C was handled."""
    ours = [path for path in map(Path, re.findall(r'File "([^"]+)"', stderr)) if path.is_relative_to(ROOT)]
    return all(path == ROOT / entry_file or path.name in FIRST_FILES or ".venv" in path.parts for path in ours)


def cpu_seconds(process: int) -> float:
    """Return the CPU seconds of a process, which show its progress on a busy machine; 0 without /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_ignored_signal_stays_ignored() -> None:
    code = "import signal; from common.cli import run_cli; from common.launcher import install_sigint_exit;"
    run = "install_sigint_exit(); run_cli(lambda: print(signal.getsignal(signal.SIGINT)) or 0)"
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN);"
    for before, expected in (("", "_interrupt"), (ignored, "SIG_IGN")):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}{before}{run}"], env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout or (before and done.stdout == "1\n")


def test_every_command_handles_ctrl_c_before_its_imports() -> None:
    for module, _ in COMMANDS.values():
        path = ROOT / module.replace(".", "/")
        text = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        imports = re.findall(r"^(?:import|from) .*", text, re.MULTILINE)
        assert imports == ["from common.launcher import start"], module
