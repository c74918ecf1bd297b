"""Commands on unusual photos: readable photos are processed, and an unreadable photo gives one error line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.display import path_text
from pipeline.batch import command as batch
from pipeline.batch import pool as batch_pool
from pipeline.batch.work import BatchJob
from pipeline.data import build_crops
from pipeline.detect import command as detect
from stage2_classifier.cropping import cut_crop
from stage2_classifier.data.crop_manifest import read_crop_set
from tests.helpers import unprivileged
from tests.helpers.batch_fakes import fake_job, run_here, table
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.unusual_photos import BOX, PHOTO, READABLE, UNREADABLE


@pytest.fixture
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder of commands, whose predictors are fakes."""

    def make_job(args: batch.BatchArgs) -> BatchJob:
        return fake_job()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detect, "load_predictor", lambda *_: FakePredictor())
    monkeypatch.setattr(batch, "make_job", make_job)
    monkeypatch.setattr(batch_pool, "run_pool", run_here)
    return Path(os.path.realpath(tmp_path))


def write_readable(folder: Path) -> list[str]:
    """Write the photos, and return their sorted names with escapes for bytes that are not UTF-8."""
    folder.mkdir(parents=True)
    for name, write in READABLE.items():
        write(folder / name)
    return sorted(escaped(name) for name in READABLE)


def escaped(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def write_unreadable(folder: Path) -> list[str]:
    """Write the files and a folder with a photo's name; return the sorted error lines of the files."""
    folder.mkdir(parents=True)
    for name, (write, _) in UNREADABLE.items():
        write(folder / name)
    (folder / "folder.jpg").mkdir()
    return [f"{name}: {what}" for name, (_, what) in sorted(UNREADABLE.items())]


def test_detect_finds_the_face_of_every_readable_photo(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_readable(work_dir / "p")
    assert detect.main(["p", "--no-pictures"]) == 0
    notes = [f"warning: p/animated.{suffix}: is an animation; the first of 2 frames" for suffix in ("gif", "webp")]
    assert [line.partition(" was used")[0] for line in capsys.readouterr().err.splitlines()] == notes
    images = json.loads((work_dir / "detections/detections.json").read_text(encoding="utf-8"))["images"]
    assert sorted(image["file"] for image in images) == sorted(f"p/{path_text(name)}" for name in READABLE)
    assert len(images) == len(names)
    for image in images:
        assert (image["width"], image["height"]) == (48, 32)
        assert [face["box"] for face in image["faces"]] == [list(BOX)], image["file"]


def test_detect_reports_every_unreadable_photo(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = write_unreadable(work_dir / "p")
    assert detect.main(["p", "p/folder.jpg", "p/gone.jpg"]) == 1
    paths = ["p/folder.jpg: holds no pictures; name a folder that does", "p/gone.jpg: not found; check the name"]
    expected = [*paths, *(f"p/{line}" for line in lines)]
    assert capsys.readouterr().err.splitlines() == [f"error: {line}" for line in expected]
    errors = json.loads((work_dir / "detections/detections.json").read_text(encoding="utf-8"))["errors"]
    assert [f"{error['file']}: {error['error']}" for error in errors] == expected


def test_batch_finds_the_face_of_every_readable_photo(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_readable(work_dir / "p")
    assert batch.main(["p", "faces.parquet"]) == 0
    assert capsys.readouterr().err == ""
    rows = table("faces.parquet")
    assert sorted(row["file"] for row in rows) == [f"{work_dir}/p/{name}" for name in names]
    for row in rows:
        assert (row["width"], row["height"], *(row[edge] for edge in ("x1", "y1", "x2", "y2"))) == (48, 32, *BOX)


def test_batch_reports_every_unreadable_photo(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = write_unreadable(work_dir / "p")
    assert batch.main(["p", "faces.parquet"]) == 1
    assert sorted(capsys.readouterr().err.splitlines()) == [f"error: {work_dir}/p/{line}" for line in lines]
    errors = pq.read_table("faces.errors.parquet").to_pylist()
    assert sorted(f"{error['file']}: {error['error']}" for error in errors) == [
        f"{work_dir}/p/{line}" for line in lines
    ]


def annotate(root: Path) -> None:
    """Write a VOC file for every entry of root/images, with a face at BOX."""
    (root / "annotations").mkdir()
    x1, y1, x2, y2 = BOX
    edges = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
    box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
    page = f"<annotation><object><name>with_mask</name><bndbox>{box}</bndbox></object></annotation>"
    for photo in (root / "images").iterdir():
        (root / "annotations" / f"{photo.stem}.xml").write_text(page)


def build(ids: list[str]) -> Any:
    """Run build_crops in the working folder, with all photos in the training split."""
    Path("splits.csv").write_text("image_id,split\n" + "".join(f"{image_id},train\n" for image_id in ids))
    return build_crops.main(["--data", "set", "--splits", "splits.csv", "--workers", "1"])


def test_crops_show_the_upright_photo(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suffixes = (".png", ".tif", ".webp")  # of datasets
    names = {name: write for name, write in READABLE.items() if name.endswith(suffixes)}
    (work_dir / "set/images").mkdir(parents=True)
    for name, write in names.items():
        write(work_dir / "set/images" / name)
    annotate(work_dir / "set")
    ids = [escaped(name).rsplit(".", 1)[0] for name in names]
    assert "caf\\xe9" in ids
    assert build(ids) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert "7 photos are turned by EXIF" in note
    crops = read_crop_set("crops")
    assert sorted(record.image_id for record in crops.records) == sorted(ids)
    for record in crops.records:
        assert record.box == BOX
        pixels = np.asarray(Image.open(Path("crops") / record.path)).astype(int)
        assert np.abs(pixels - cut_crop(PHOTO, BOX, crops.margin)).max() <= 1, record.image_id


def test_build_crops_reports_every_unreadable_photo(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = write_unreadable(work_dir / "set/images")
    READABLE["exif1.png"](work_dir / "set/images/good.png")
    annotate(work_dir / "set")
    assert build(["good", "truncated"]) == 1
    # Errors in a photo's header are found when the dataset is read; a truncated photo is found later.
    truncated = [line for line in lines if line.startswith("truncated")]
    headers = [f"set/images/{line}; not used" for line in lines if line not in truncated]
    folder = "set/annotations/folder.xml: no image folder.* in set/images; not used"
    warnings = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert warnings == [
        f"warning: {line}" for line in [folder, *headers, *(f"set/images/{line}" for line in truncated)]
    ]
    assert [record.image_id for record in read_crop_set("crops").records] == ["good"]


def test_a_photo_without_read_permission(tmp_path: Path) -> None:
    (tmp_path / "set/images").mkdir(parents=True)
    for stem in "ab":
        READABLE["exif1.png"](tmp_path / f"set/images/{stem}.png")
    annotate(tmp_path / "set")
    (tmp_path / "splits.csv").write_text("image_id,split\na,train\nb,train\n")
    unreadable, what = (
        tmp_path / "set/images/b.png",
        "cannot be read (Permission denied); check its name and permissions",
    )
    unreadable.chmod(0)
    done = unprivileged.run_python("-m", "pipeline.detect", "set/images", "--no-pictures", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"error: set/images/b.png: {what}\n")
    done = unprivileged.run_python("-m", "pipeline.build_crops", "--data", "set", "--workers", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (
        0,
        [
            f"warning: set/images/b.png: {what}; not used",
            "note: 1 of 2 annotated faces were refused",
            "warning: splits.csv: 1 of its 2 photos are not in the data, or refused: b",
        ],
    )
    assert [record.image_id for record in read_crop_set(tmp_path / "crops").records] == ["a"]


@pytest.mark.slow
def test_a_batch_photo_without_read_permission(tmp_path: Path) -> None:
    READABLE["exif1.png"](tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    done = unprivileged.run_python("-m", "pipeline.batch", "a.png", "faces.parquet", "--workers", "1", cwd=tmp_path)
    what = "cannot be read (Permission denied); check its name and permissions"
    assert (done.returncode, done.stderr) == (1, f"error: {os.path.realpath(tmp_path)}/a.png: {what}\n")


def test_an_annotation_without_read_permission(tmp_path: Path) -> None:
    for stem in "ab":
        (tmp_path / "set/images").mkdir(parents=True, exist_ok=True)
        READABLE["exif1.png"](tmp_path / f"set/images/{stem}.png")
    annotate(tmp_path / "set")
    (tmp_path / "set/annotations/b.xml").chmod(0)
    (tmp_path / "splits.csv").write_text("image_id,split\na,train\nb,train\n")
    done = unprivileged.run_python("-m", "pipeline.build_crops", "--data", "set", "--workers", "1", cwd=tmp_path)
    line = "set/annotations/b.xml: cannot be read (Permission denied); not used, check its permissions"
    lost = "splits.csv: 1 of its 2 photos are not in the data, or refused: b"
    assert (done.returncode, done.stderr) == (0, f"warning: {line}\nwarning: {lost}\n")
