"""Every command runs in a process in which only the packages of the extra that it needs can be imported.

The test suite itself imports everything, which hides a missing import: pandas brought `pyarrow.compute` along.
"""

from __future__ import annotations

import ast
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.facemask import COMMANDS
from tests.helpers.bare_process import ROOT, bare_environment, blocked_packages, run_bare
from tests.helpers.commands import write_data, write_distinct_photos
from tests.helpers.video.made_videos import blob_video
from tests.test_architecture import PACKAGES, modules

DATA = ("--data", "data", "--splits", "splits.csv")


@dataclass(frozen=True)
class Row:
    """One run of a command."""

    extra: str  # "" for none
    arguments: tuple[str, ...]
    shows: str  # part of what the run prints
    code: int = 0
    quick: bool = False  # whether the run belongs into the quick tests


ROWS: dict[str, tuple[Row, ...]] = {
    "detect": (
        Row("", ("photo.png",), "photo.png", quick=True),
        Row("", ("folder",), "pip install '.[video]'", code=1, quick=True),
        Row("video", ("folder",), "v.mp4: 3 frames", quick=True),
    ),
    "demo": (Row("demo", (), "without_mask", quick=True), Row("", (), "pip install '.[demo]'", code=1)),
    "serve": (Row("serve", ("--help",), "--port", quick=True), Row("", (), "pip install '.[serve]'", code=1)),
    "batch": (
        Row("batch", ("rows.parquet", "photo.png", "o.parquet", "--workers", "1"), "photos:     2", 1, quick=True),
        Row("batch", ("photo.png", "o.parquet", "--workers", "1", "--engine", "ray"), "photos:     1"),
        Row("", ("photo.png", "o.parquet"), "pip install '.[batch]'", code=1),
    ),
    "split": (Row("train", ("--data", "distinct", "--out", "s.csv"), "train", quick=True),),
    "build-crops": (Row("train", (*DATA, "--workers", "2"), "28 crops"),),
    "train-all": (
        Row("train", ("--help",), "--quick"),
        # Its steps (finetune, build_crops, train, pack, evaluate) are processes in which the same packages are blocked.
        Row("train", (*DATA, "--out", "b", "--quick", "--experiments", "final_cnn", "--no-all-photos"), "--quick"),
        Row("train", ("--data", "nothing", "--splits", "splits.csv", "--out", "b"), "nothing", code=1),
    ),
    "finetune": (
        Row("train", ("--help",), "--data"),
        Row("train", ("--data", "nothing", "--splits", "splits.csv", "--out", "b"), "nothing", code=1),
    ),
    "train": (
        Row("train", ("--help",), "--experiment"),
        Row("train", ("--crops", "nothing", "--name", "x"), "nothing", code=1),
    ),
    "report": (
        Row("train", ("--help",), "--crops"),
        Row("train", ("nothing", "--crops", "nothing"), "nothing", code=1),
    ),
    "transforms": (Row("train", ("--crops", "crops", "--preview", "p.png"), "p.png"),),
    "pack": (
        Row("train", ("--help",), "--settings-from"),
        Row("train", ("--run", "nothing", "--out", "b"), "nothing", code=1),
    ),
    "bundle": (Row("", ("show",), "classifier", quick=True),),
    "export": (
        Row("export", ("--out", "d.onnx"), "d.onnx"),
        Row("", ("--out", "d.onnx"), "pip install '.[export]'", code=1),
    ),
    "evaluate": (Row("train", DATA, "recall"),),
    "crossval": (
        Row("train", ("--help",), "--folds"),
        Row("train", ("--data", "nothing"), "nothing", code=1),
    ),
    "baseline": (
        Row("train", ("--help",), "--data"),
        Row("train", ("--data", "nothing", "--splits", "splits.csv", "--out", "b"), "nothing", code=1),
    ),
    "bench": (Row("train", ("--help",), "--competitor"), Row("train", ("--data", "nothing"), "nothing", code=1)),
    "check": (Row("train", ("--data", "data"), "data"), Row("train", ("--data", "nothing"), "nothing", code=1)),
}
RUNS = [
    pytest.param(command, row, marks=() if row.quick else pytest.mark.slow, id=f"{command}-{number}")
    for command, rows in ROWS.items()
    if command in COMMANDS
    for number, row in enumerate(rows)
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the commands of the table name."""
    folder = tmp_path_factory.mktemp("bare")
    write_data(folder / "data", ("with_mask", "without_mask"))
    write_distinct_photos(folder / "distinct", 24)
    shutil.copy(folder / "data/p0.png", folder / "photo.png")
    (folder / "folder").mkdir()
    shutil.copy(folder / "data/p0.png", folder / "folder/p.png")
    blob_video(folder / "folder/v.mp4", frames=3)
    rows = [{"image": {"bytes": (folder / "photo.png").read_bytes(), "path": "a.png"}}, {"image": None}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_row(command: str) -> None:
    assert command in ROWS, f"add the command {command!r} to ROWS: the extra that it needs, and a small run"


@pytest.mark.parametrize(("command", "row"), RUNS)
def test_a_command_in_a_bare_process(command: str, row: Row, inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    if command == "transforms":
        crops = run_bare("train", ["-m", "pipeline.build_crops", *DATA, "--workers", "1"], tmp_path)
        assert crops.returncode == 0, crops.stderr
    done = run_bare(row.extra, ["-m", COMMANDS[command][0], *row.arguments], tmp_path)
    assert "Traceback" not in done.stderr and "worker" not in done.stderr, done.stderr
    assert done.returncode == row.code, (done.stdout, done.stderr)
    assert row.shows in done.stdout + done.stderr, (done.stdout, done.stderr)


def test_the_server_in_a_bare_process(inputs: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline.serve", "--port", str(port)]
    environment = bare_environment("serve", tmp_path / "site")
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            end = time.monotonic() + 60
            page = b""
            while not page and server.poll() is None and time.monotonic() < end:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    page = answer.read()
                time.sleep(0.05)
        finally:
            server.terminate()
            _, stderr = server.communicate(timeout=30)
        assert b"<html" in page, stderr


@pytest.mark.parametrize(
    ("extra", "there", "missing"),
    [("", "tyro", "pyarrow"), ("batch", "pyarrow", "av"), ("video", "av", "torch"), ("train", "torch", "pytest")],
)
def test_the_process_is_bare(tmp_path: Path, extra: str, there: str, missing: str) -> None:
    code = f"from importlib.util import find_spec as f; print([f(m) is not None for m in ({there!r}, {missing!r})])"
    done = run_bare(extra, ["-c", code], tmp_path)
    assert done.stdout == "[True, False]\n", done.stderr
    assert missing in blocked_packages(extra) and there not in blocked_packages(extra)


def attributes(module: str) -> Iterator[tuple[str, str]]:
    """Yield (package, dotted name) where a module uses `package.a.b` of a package that it imports as a whole."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported.add(alias.name)
                if alias.asname or "." not in alias.name:
                    names[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            package = names[node.value.id]
            full = f"{package}.{node.attr}"
            if package.partition(".")[0] not in PACKAGES and not any(
                f"{each}.".startswith(f"{full}.") for each in imported
            ):
                yield package, node.attr


@pytest.mark.slow
@pytest.mark.parametrize("heavy", [True, False])
def test_no_module_uses_a_part_of_a_package_that_only_others_import(tmp_path: Path, heavy: bool) -> None:
    """`import pyarrow as pa` does not give `pa.compute`: each used attribute must be there after the import alone."""
    slow = ("torch", "torchvision", "timm", "ray", "sklearn", "matplotlib", "accelerate", "albumentations")
    uses: dict[str, set[str]] = {}
    for module in modules():
        for package, name in attributes(module):
            if (package.partition(".")[0] in slow) == heavy:
                uses.setdefault(package, set()).add(name)
    assert len(uses) > 3
    for package, names in sorted(uses.items()):
        # Standard library's modules come and go by system, as `resource` and `os.sched_getaffinity`.
        code = (
            "import importlib, json, sys\n"
            f"package = importlib.import_module({package!r})\n"
            f"print(json.dumps([n for n in {sorted(names)!r} if not hasattr(package, n)]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=None, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == [], package
