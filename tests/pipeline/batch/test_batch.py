from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.batch import command as batch
from pipeline.batch import pool as batch_pool
from pipeline.batch.photo_source import ParquetColumns
from pipeline.batch.work import BatchJob
from pipeline.detect import command as detect
from pipeline.detect.demo.command import portrait
from pipeline.inference.image_writer import write_image
from tests.helpers.batch_fakes import deadly, fake_job, load_once, run_here, table
from tests.helpers.commands import INTERRUPTED
from tests.helpers.fake_predictor import CLASSES, write_picture

ROOT = Path(__file__).resolve().parents[3]
FIX = "use the same, or name another place"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in this process, with the fake predictor."""
    monkeypatch.chdir(tmp_path)

    def make_job(args: batch.BatchArgs) -> BatchJob:
        return fake_job(columns=ParquetColumns(args.column, args.id_column), min_score=args.min_score)

    monkeypatch.setattr(batch, "make_job", make_job)
    monkeypatch.setattr(batch_pool, "run_pool", run_here)
    return Path(os.path.realpath(tmp_path))


def run(*args: str | Path | int) -> int:
    return batch.main([str(arg) for arg in args])


def command(*args: str | Path | int, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.batch", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def lines(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def test_photos_become_a_table(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(Path("p/a.png"), [(8, 6, 20, 24), (30, 10, 40, 20)])
    write_picture(Path("p/x/none.png"), [])
    assert run("p", "out/faces.parquet") == 0
    frame = pd.read_parquet("out/faces.parquet")
    assert sorted(frame["file"]) == [f"{fake}/p/a.png"] * 2 + [f"{fake}/p/x/none.png"]
    assert list(frame.columns) == [
        *("file", "width", "height", "face", "x1", "y1", "x2", "y2", "label", "score", "face_score"),
        *(f"p_{name}" for name in CLASSES),
        *("unsure", "landmarks", "note"),
    ]
    out, err = lines(capsys)
    assert err == []
    assert out[:2] == ["photos:     2", "faces:      2: with_mask 2, without_mask 0, mask_weared_incorrect 0"]
    assert out[2].startswith("speed: ") and out[3:] == ["results:    out/faces.parquet"]
    assert not Path("out/faces.errors.parquet").exists()


def test_the_same_command_processes_only_new_photos(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(Path("p/a.png"))
    assert run("p", "faces.parquet") == 0
    (part,) = Path("faces.parquet").iterdir()
    before = part.stat().st_ino, part.stat().st_mtime_ns
    write_picture(Path("p/b.png"), [])
    assert run("p/", "faces.parquet/") == 0
    assert [row["file"] for row in table("faces.parquet")] == [f"{fake}/p/a.png", f"{fake}/p/b.png"]
    assert (part.stat().st_ino, part.stat().st_mtime_ns) == before
    capsys.readouterr()
    assert run(fake / "p", "faces.parquet") == 0
    assert lines(capsys)[0] == [
        "photos:     0 (2 before)",
        "faces:      0: with_mask 0, without_mask 0, mask_weared_incorrect 0",
        "results:    faces.parquet",
    ]
    assert len(list(Path("faces.parquet").iterdir())) == 2


def test_errors_are_written_to_a_file_and_tried_again(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_picture(Path("p/a.png")).read_bytes()
    for i in range(7):
        Path(f"p/bad{i}.png").write_bytes(b"no picture")
    assert run("p", "missing", "faces.parquet") == 1
    out, err = lines(capsys)
    *named, last = err
    assert len(named) == 5 and last == "error: and 3 more"
    assert all(line.startswith(f"error: {fake}/p/bad{i}.png: is not a picture") for i, line in enumerate(named))
    assert (
        out[0] == "photos:     1" and out[2] == "errors:     8, tried again by the same command: faces.errors.parquet"
    )
    errors = pq.read_table("faces.errors.parquet").to_pylist()
    assert errors[-1] == {"file": "missing", "error": "not found; check the name"}
    assert sorted(error["file"] for error in errors) == [*(f"{fake}/p/bad{i}.png" for i in range(7)), "missing"]
    for i in range(6):
        Path(f"p/bad{i}.png").write_bytes(good)
    assert run("p", "faces.parquet") == 1
    (error,) = pq.read_table("faces.errors.parquet").to_pylist()
    assert error["file"] == f"{fake}/p/bad6.png" and error["error"].startswith("is not a picture")
    Path("p/bad6.png").write_bytes(good)
    assert run("p", "faces.parquet") == 0
    assert len(table("faces.parquet")) == 8 and not Path("faces.errors.parquet").exists()


def test_parquet_sources(fake: Path) -> None:
    photo = write_picture(Path("a.png")).read_bytes()
    image = pa.array([{"bytes": photo, "path": f"{i}.png"} for i in range(40)])
    pq.write_table(pa.table({"image": image}), "photos.parquet", row_group_size=10)
    assert run("photos.parquet", "faces.parquet", "--id-column", "image.path", "--chunk", "7") == 0
    rows = table("faces.parquet")
    assert sorted((row["file"], row["id"]) for row in rows) == sorted(
        (f"{fake}/photos.parquet#{i}", f"{i}.png") for i in range(40)
    )
    assert run("photos.parquet", "faces.parquet", "--id-column", "image.path") == 0
    assert table("faces.parquet") == rows


def test_from_address_to_address(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/photos/x/a.png", write_picture(Path("a.png")).read_bytes())
    memory.pipe("/photos/b.png", b"")
    try:
        assert run("memory://photos", f"file://{fake}/a.png", "memory://results/faces.parquet") == 1
        assert lines(capsys)[1] == ["error: memory://photos/b.png: is empty (0 bytes); copy or upload it again"]
        frame = pd.read_parquet("memory://results/faces.parquet")
        assert sorted(frame["file"]) == [f"{fake}/a.png", "memory://photos/x/a.png"]
        assert pd.read_parquet("memory://results/faces.errors.parquet")["file"].tolist() == ["memory://photos/b.png"]
    finally:
        for folder in ("/photos", "/results"):
            memory.rm(folder, recursive=True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "name the photos and the folder of results, as in `batch photos/ faces.parquet`"),
        (("p",), "name the photos and the folder of results, as in `batch photos/ faces.parquet`"),
        (("p", "q"), "q: name the folder of results last, ending in .parquet"),
        (("p", "o.parquet", "--min-score", "2"), "--min-score is 2; use a number from 0 to 1"),
        (("p", "o.parquet", "--min-score", "nan"), "--min-score is nan; use a number from 0 to 1"),
        (("p", "o.parquet", "--min-face", "0.5"), "--min-face is 0.5; use 1 pixel or more"),
        (("p", "o.parquet", "--workers", "0"), "--workers is 0; use 1 or more"),
        (("p", "o.parquet", "--chunk", "0"), "--chunk is 0; use 1 to 100000"),
        (
            ("p", "o.parquet", "--engine", "pool", "--address", "auto"),
            "--address names a Ray cluster, but --engine pool uses none; remove one of the two",
        ),
        (("p", "p/a.parquet"), "p/a.parquet: is a file, results are a folder; name another place"),
        (("p", "nosuch://x/o.parquet"), "nosuch://x/o.parquet: cannot be opened (Protocol not known: nosuch); "
         "check the address"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    fake: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    write_picture(Path("p/a.png"))
    Path("p/a.parquet").touch()
    assert run(*args) == 1
    assert lines(capsys) == ([], [f"error: {message}"])
    assert not Path("o.parquet").exists()


def test_another_option_is_refused(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(Path("p/a.png"))
    assert run("p", "faces.parquet", "--min-score", "0.25") == 0
    capsys.readouterr()
    assert run("p", "faces.parquet") == 1
    assert lines(capsys)[1] == [f"error: faces.parquet: was made with --min-score 0.25, this is no --min-score; {FIX}"]


def test_a_missing_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "faces.parquet", "--bundle", tmp_path / "b") == 1
    (line,) = lines(capsys)[1]
    assert line.startswith(f"error: {tmp_path}/b/bundle.json: not found; ")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(
    fake: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(Path("p/a.png"))

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        assert run("p", "faces.parquet") == 1
    (line,) = lines(capsys)[1]
    assert line.startswith(f"error: {fake}/faces.parquet/part-")
    assert ".parquet: No space left on device; " in line
    assert run("p", "faces.parquet") == 0 and len(table("faces.parquet")) == 1


def test_two_runs_at_a_time_are_refused(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.batch.results import BatchResults

    write_picture(Path("p/a.png"))
    with BatchResults("faces.parquet", fake_job().recipe).open():
        assert run("p", "faces.parquet") == 1
    (line,) = lines(capsys)[1]
    assert line.startswith(f"error: {fake}/faces.parquet: process {os.getpid()} ")


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(8):
        write_picture(tmp_path / f"p/{i}.png")
    deadly(tmp_path / "p/3.png")
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job(load_once(tmp_path / "flag")))
    out = tmp_path / "faces.parquet"
    assert run(tmp_path / "p", out, "--chunk", "4", "--workers", "2") == 0
    assert (tmp_path / "flag").exists() and lines(capsys)[1] == []
    assert [row["file"] for row in table(out)] == sorted(str(path) for path in (tmp_path / "p").iterdir())


@pytest.mark.parametrize("package", ["pyarrow", "fsspec", "ray"])
def test_a_missing_extra_is_one_line(package: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    source = "memory://p" if package == "fsspec" else tmp_path / "a.png"
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / package).mkdir()
    # Python finds this module first, also in the child process that runs Ray.
    (tmp_path / "without" / package / "__init__.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'without'}:{ROOT}"}
    args = [source, tmp_path / "faces.parquet", *(["--engine", "ray"] if package == "ray" else [])]
    with command(*args, env=environment) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    how = "in the project's folder, run `make install`, or `pip install '.[batch]'` in an environment of your own"
    assert err == f"error: this needs the package '{package}'; {how}\n"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photos with a face, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    face = portrait()
    for i in range(24):
        small = cv2.resize(face, (150 + i, 180), interpolation=cv2.INTER_AREA)
        write_image(folder / f"{i:02}.jpg", np.asarray(small if i % 4 else small[:20], np.uint8))
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("results") / "faces.parquet"
    assert run(photos, out, "--min-score", "0.05", "--chunk", "3") == 1
    return table(out)


@pytest.mark.slow
def test_rows_equal_the_results_of_detect(photos: Path, uninterrupted: list[dict[str, Any]], tmp_path: Path) -> None:
    report = tmp_path / "detections.json"
    assert detect.main([str(photos), "--no-pictures", "--json", str(report), "--min-score", "0.05"]) == 1
    images = json.loads(report.read_text(encoding="utf-8"))["images"]
    assert sum(len(image["faces"]) for image in images) > 10
    rows = iter(uninterrupted)
    for image in sorted(images, key=lambda image: image["file"]):
        for number, face in enumerate(image["faces"] or [None]):
            row = next(rows)
            assert (row["file"], row["width"], row["height"]) == (image["file"], image["width"], image["height"])
            if face is None:
                assert row["face"] is None and row["label"] is None and row["landmarks"] is None
                continue
            assert (row["face"], row["label"], row["unsure"]) == (number, face["label"], face["unsure"])
            numbers = [row[name] for name in ("x1", "y1", "x2", "y2", "score", "face_score")]
            expected = [*face["box"], face["score"], face["face_score"]]
            numbers += [row[f"p_{name}"] for name in face["probs"]] + row["landmarks"]
            expected += [*face["probs"].values(), *np.ravel(face["landmarks"])]
            assert numbers == [float(np.float32(value)) for value in expected]
    assert next(rows, None) is None


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_table(
    photos: Path, uninterrupted: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "faces.parquet"
    args = (photos, out, "--min-score", "0.05", "--chunk", "3", "--workers", "2")
    rng = random.Random(7)
    for _ in range(2):
        with command(*args) as process:
            before = len(list(out.glob("part-*")))
            wait_for(lambda before=before: len(list(out.glob("part-*"))) > before, process)
            time.sleep(rng.random() * 0.3)
            process.kill()
            process.communicate()
    assert len(list(out.glob("part-*"))) >= 2
    with command(*args) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.startswith(f"error: {photos}/bad.jpg: is not a picture")
    assert err.count("\n") == 1
    assert table(out) == uninterrupted
    assert all(path.name.startswith("part-") for path in out.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.errors.parquet", "faces.parquet"]


@pytest.mark.slow
def test_ctrl_c_ends_the_run_at_once_and_it_resumes(
    photos: Path, uninterrupted: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "faces.parquet"
    args = (photos, out, "--min-score", "0.05", "--chunk", "1", "--workers", "1")
    with command(*args) as process:
        wait_for(lambda: any(out.glob("part-*")), process)
        start_time = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out_text, err = process.communicate(timeout=60)
        took = time.monotonic() - start_time
    assert process.returncode in INTERRUPTED
    assert (out_text, err) == ("", "interrupted\n") and took < 6  # s, three times the aim
    assert 0 < len(list(out.iterdir())) < len(uninterrupted)
    assert all(path.name.startswith("part-") for path in out.iterdir())
    assert run(*args) == 1
    assert table(out) == uninterrupted


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line(photos: Path, tmp_path: Path) -> None:
    with command(
        photos, tmp_path / "faces.parquet", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    ) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(f"error: {tmp_path}/faces.parquet/part-")
    assert ".parquet: File too large; " in err and err.count("\n") == 1
    assert not (tmp_path / "faces.parquet").exists()
