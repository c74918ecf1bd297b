"""Ctrl-C in a command's first seconds, while it loads its packages and begins: one line, no traceback.

Python's own start, some hundredths of a second before the first line of ours, is Python's: what it says there is not
looked at. MOMENTS are the fixed ones; a few at random (CTRL_C_SEED) are between them.
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

from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.facemask import COMMANDS
from tests.helpers.commands import (
    ENVIRONMENT,
    INTERRUPTED,
    ROOT,
    Command,
    build_crops,
    run_whole,
    start,
    train,
    write_data,
    write_drawn,
)

MOMENTS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0)  # s after the process was started
RANDOM = 3
SEED = int(os.environ.get("CTRL_C_SEED", time.time_ns() % 1_000_000))
LINES = (b"interrupted\n", b"interrupted; the same command goes on\n")
# What runs before Ctrl-C is handled.
FIRST_FILES = ("__main__.py", "__init__.py", "launcher.py", "interrupts.py")
OWN = 0.15  # s of computing that Python's own start takes at most; loading the packages takes several times that
PATIENCE = 60  # s
DOORS = {name: f"pipeline/{name}/__main__.py" for name in ("detect", "batch")} | {"split": "pipeline/split.py"}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals of this kind")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many that no command is done with them in the longest of MOMENTS, as COCO, too."""
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


def batch(photos: Path, folder: Path) -> Command:
    return ["-m", "pipeline.batch", photos, folder / "faces.parquet", "--workers", "2"]


@pytest.mark.parametrize("command", [detect, split, batch])
def test_on_photos(photos: Path, tmp_path: Path, command: Callable[[Path, Path], Command]) -> None:
    if command is batch and find_spec("pyarrow") is None:
        pytest.skip("needs pyarrow")
    check(lambda folder: command(photos, folder), DOORS[command.__name__], tmp_path)


def test_train(tmp_path: Path) -> None:
    data = write_data(tmp_path / "annotated" / "data")
    run_whole(build_crops(data, tmp_path / "crops"), tmp_path)
    check(lambda folder: train(tmp_path / "crops", folder, 500), "stage2_classifier/train.py", tmp_path)


def test_finetune(tmp_path: Path) -> None:
    drawn = write_drawn(tmp_path / "data")
    files = ["--data", drawn, "--splits", drawn / "splits.csv", "--threads", "1"]
    command = ["-m", "stage1_faces.finetune", *files]
    check(lambda folder: [*command, "--out", folder / "run"], "stage1_faces/finetune.py", tmp_path)


def check(command: Callable[[Path], Command], module: str, tmp_path: Path) -> None:
    """Starts a command again and again, each time in a folder of its own, and sends Ctrl-C as a terminal does."""
    drawn = random.Random(SEED)
    moments = (*MOMENTS, *(drawn.uniform(MOMENTS[0], MOMENTS[-1]) for _ in range(RANDOM)))
    for number, moment in enumerate(moments):
        folder = tmp_path / f"broken{number}"
        folder.mkdir()
        process = start(command(folder), folder)
        time.sleep(moment)
        assert process.poll() is None, (process.communicate()[1] or b"it was done too soon").decode()
        far = worked(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, said = process.communicate(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode in INTERRUPTED and said in LINES:
            continue
        told = f"seed {SEED}, {moment:.2f} s: code {process.returncode}, said {said.decode(errors='replace')}"
        assert process.returncode in (1, -signal.SIGINT) and before_ours(said.decode(errors="replace"), module), told
        assert far <= OWN, told
        print(f"\n{module}: {moment:.2f} s ({far} s of computing) is still Python's own start")


def before_ours(said: str, door: str) -> bool:
    """Whether a traceback (an empty one, too) is of the time before Ctrl-C was handled."""
    ours = [path for path in map(Path, re.findall(r'File "([^"]+)"', said)) if path.is_relative_to(ROOT)]
    return all(path == ROOT / door or path.name in FIRST_FILES or ".venv" in path.parts for path in ours)


def worked(process: int) -> float:
    """Seconds that a process has computed by now, where /proc tells: how far it is, however busy the machine."""
    try:
        numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def test_where_it_is_ignored_it_stays_so() -> None:
    code = "import signal; from common.cli import run_cli; from common.interrupts import install_sigint_exit;"
    run = "install_sigint_exit(); run_cli(lambda: print(signal.getsignal(signal.SIGINT)) or 0)"
    ignored = "signal.signal(signal.SIGINT, signal.SIG_IGN);"
    for before, expected in (("", "default_int_handler"), (ignored, "SIG_IGN")):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}{before}{run}"], env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout or (before and done.stdout == "1\n")


def test_every_command_handles_it_before_its_imports() -> None:
    for module, _ in COMMANDS.values():
        door = ROOT / module.replace(".", "/")
        text = (door / "__main__.py" if door.is_dir() else door.with_suffix(".py")).read_text()
        imports = re.findall(r"^(?:import|from) .*", text, re.MULTILINE)
        assert imports == ["from common.launcher import start"], module
