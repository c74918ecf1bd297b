"""Ctrl-C at long work: it ends at once, in one line, with no process left, and the same command goes on.

As a process manager sends it (to the process alone) and as a terminal does (to all that it started, too). The end takes
AIM at most, times how much slower the machine is at the time because of others' work. Each test prints how long it took
and that factor (`pytest -s`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.bench.synthetic_photos import synthetic_photo
from tests.helpers.commands import (
    INTERRUPTED,
    Command,
    build_crops,
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

AIM = 2.0  # s, on a machine that does nothing else
PATIENCE = 3 * AIM  # however busy it is
WORK = 0.2  # s of computing, to see how busy
GOES_ON = b"interrupted; the same command goes on\n"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals of this kind")]
to_whom = pytest.mark.parametrize("whom", ["process", "group"])


def slowness() -> float:
    """How many times longer than its own seconds of computing a piece of work takes now."""
    begin, begin_work = time.monotonic(), time.thread_time()
    while time.thread_time() - begin_work < WORK:
        sum(range(1000))
    return max(1.0, (time.monotonic() - begin) / WORK)


def interrupt(command: Command, folder: Path, begun: str, whom: str, later: float = 0.0) -> bytes:
    """Sends Ctrl-C `later` seconds after a file that the pattern `begun` fits is there; gives what the command said.

    With no pattern, after it was started.
    """
    process = start(command, folder)
    until = time.monotonic() + 120
    while begun and not any(folder.glob(begun)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(later)
    assert process.poll() is None, (process.communicate()[1] or b"it was done too soon").decode()
    begin = time.monotonic()
    if whom == "group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(slowness)
        _, said = process.communicate()
        took = time.monotonic() - begin
    slower = max(meanwhile.result(), slowness())
    print(f"\n{command[1]} ({whom}, {later} s after {begun}): ended in {took:.2f} s, machine slower by {slower:.2f}")
    assert process.returncode in INTERRUPTED, said.decode()
    assert took < min(AIM * slower, PATIENCE)
    while others(process.pid) and time.monotonic() < begin + PATIENCE:
        time.sleep(0.05)
    assert others(process.pid) == []
    return said


def others(session: int) -> list[str]:
    """The living processes of a session, where /proc tells of them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = path.read_text(errors="replace").rsplit(")", 1)
        except OSError:  # it has just ended
            continue
        state, _, _, its = rest.split()[:4]
        if int(its) == session and state not in "ZX":
            found.append(name)
    return found


def check_goes_on(command: Callable[[Path], Command], out: str, tmp_path: Path, kept: tuple[str, ...] = ("",)) -> None:
    """Runs the command that was broken off in tmp_path/broken again, and another one whole; their files are alike."""
    run_whole(command(tmp_path / "broken"), tmp_path / "broken")
    (tmp_path / "whole").mkdir()
    run_whole(command(tmp_path / "whole"), tmp_path / "whole")
    expected, got = contents(tmp_path / "whole" / out), contents(tmp_path / "broken" / out)
    assert set(got) == set(expected)
    assert [name for name in got if name.endswith(kept) and got[name] != expected[name]] == []


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken").mkdir()
    return tmp_path / "broken"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops, and a run on them."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_data(folder / "annotated" / "data")
    run_whole(build_crops(data, folder / "crops"), folder)
    run_whole(train(folder / "crops", folder, 2), folder)
    return folder


@to_whom
def test_detect(tmp_path: Path, broken: Path, whom: str) -> None:
    some = write_photos(tmp_path / "some")
    many = tmp_path / "many"
    many.mkdir()
    for k in range(400):
        shutil.copy(some / f"{k % 24}.png", many / f"{k}.png")
    assert interrupt(["-m", "pipeline.detect", many, "--out", "out"], broken, "out/*.png", whom) == b"interrupted\n"
    assert not [path.name for path in (broken / "out").iterdir() if ".tmp" in path.name or path.suffix == ".json"]


@to_whom
def test_split(tmp_path: Path, broken: Path, whom: str) -> None:
    data = write_different(tmp_path / "data", count=2)
    copied = json.loads((data / "_annotations.coco.json").read_text())
    Image.fromarray(synthetic_photo(1600, 1200, 3, seed=1)).save(data / "p0.png")
    for k in range(2, 400):
        os.link(data / "p0.png", data / f"p{k}.png")
        copied["images"].append({"id": k, "file_name": f"p{k}.png"})
        copied["annotations"].append({"id": k + 2, "image_id": k, "category_id": 0, "bbox": [10, 20, 32, 40]})
    (data / "_annotations.coco.json").write_text(json.dumps(copied))
    splits = ["-m", "pipeline.split", "--data", data, "--out", "splits.csv"]
    # Nothing is written until its end; by then it has loaded its packages and looks at photos.
    assert interrupt(splits, broken, "", whom, 3.0) == b"interrupted\n"
    assert list(broken.iterdir()) == []


@to_whom
def test_report(trained: Path, tmp_path: Path, broken: Path, whom: str) -> None:
    where = ["--crops", trained / "crops", "--split", "test", "--out", "out"]
    report = ["-m", "stage2_classifier.report", trained / "runs/quick", *where]
    assert interrupt(report, broken, "out/quick/*.json", whom) == b"interrupted\n"
    assert not [path.name for path in (broken / "out").rglob("*") if ".tmp" in path.name or path.suffix == ".html"]
    if whom == "process":
        check_goes_on(lambda folder: report, "out", tmp_path, (".json", ".csv", ".png"))


@to_whom
def test_build_crops(tmp_path: Path, broken: Path, whom: str) -> None:
    data = write_different(tmp_path / "data", count=80, scale=12)
    lines = [f"p{i},{('train', 'val', 'test')[i % 3]}" for i in range(80)]
    (tmp_path / "splits.csv").write_text("\n".join(["image_id,split", *lines, ""]))
    assert interrupt(build_crops(data), broken, "crops/*/*/*.png", whom) == b"interrupted\n"
    assert not (broken / "crops" / "crops.csv").exists()
    check_goes_on(lambda folder: build_crops(data), "crops", tmp_path)


@pytest.mark.parametrize("later", [0.0, 0.3])
def test_build_crops_while_its_processes_begin(tmp_path: Path, broken: Path, later: float) -> None:
    data = write_different(tmp_path / "data", count=80, scale=12)
    (tmp_path / "splits.csv").write_text("\n".join(["image_id,split", *(f"p{i},train" for i in range(80)), ""]))
    assert interrupt(build_crops(data), broken, "crops/.crops", "group", later) == b"interrupted\n"


@to_whom
def test_finetune(tmp_path: Path, broken: Path, whom: str) -> None:
    drawn = write_drawn(tmp_path / "data")
    begun, later = ("run/config.json", 0.0) if whom == "process" else ("run/log.jsonl", 0.5)
    said = interrupt(finetune(drawn), broken, begun, whom, later).splitlines(keepends=True)
    assert said[-1] == GOES_ON and all(b" epoch " in line for line in said[:-1])
    check_goes_on(lambda folder: finetune(drawn), "run", tmp_path)


@to_whom
def test_train(tmp_path: Path, broken: Path, whom: str) -> None:
    data = write_data(tmp_path / "annotated" / "data")
    crops = tmp_path / "crops"
    run_whole(build_crops(data, crops), tmp_path)
    begun = "runs/quick/config.json" if whom == "process" else "runs/quick/last.pt"
    assert interrupt(train(crops, broken, 20), broken, begun, whom) == b"interrupted\n"
    check_goes_on(lambda folder: train(crops, folder, 20), "runs/quick", tmp_path, (".safetensors", ".jsonl"))


@to_whom
def test_batch(tmp_path: Path, broken: Path, whom: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    some = write_photos(tmp_path / "some")
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(240):
        shutil.copy(some / f"{k % 24}.png", photos / f"{k}.png")

    def command(folder: Path) -> Command:
        return ["-m", "pipeline.batch", photos, folder / "out.parquet", "--chunk", "3", "--workers", "2"]

    def rows(folder: Path) -> list[dict[str, Any]]:
        table = parquet.read_table(folder / "out.parquet").to_pylist()
        return sorted(table, key=lambda row: (row["file"], row["face"] or 0))

    assert interrupt(command(broken), broken, "out.parquet/part-*", whom) == b"interrupted\n"
    assert not [path.name for path in (broken / "out.parquet").iterdir() if path.name.startswith(".")]
    (tmp_path / "whole").mkdir()
    for folder in (broken, tmp_path / "whole"):
        run_whole(command(folder), folder)
    assert rows(broken) == rows(tmp_path / "whole")


@to_whom
@pytest.mark.parametrize("begun", ["runs/*/train_all.json", "runs/*/part/cascade/log.jsonl"])
def test_train_all(tmp_path: Path, broken: Path, whom: str, begun: str) -> None:
    data = write_data(tmp_path / "annotated" / "data")
    splits = data.parent / "splits.csv"
    command = ["-m", "pipeline.train_all", "--data", data, "--splits", splits, "--out", "bundle", "--quick"]
    assert interrupt(command, broken, begun, whom) == GOES_ON
    assert not (broken / "bundle").exists()  # (that it goes on to the same end: test_kills.py)


@to_whom
@pytest.mark.parametrize("begun", ["out/crossval_config.json", "out/fold0/cascade/config.json"])
def test_crossval(tmp_path: Path, broken: Path, whom: str, begun: str) -> None:
    data = write_different(tmp_path / "data", count=12)
    command = ["-m", "pipeline.crossval", "--data", data, "--folds", "3", "--out", "out"]
    assert interrupt(command, broken, begun, whom) == GOES_ON
    assert not (broken / "out" / "crossval.json").exists()
