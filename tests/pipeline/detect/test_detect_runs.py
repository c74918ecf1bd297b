"""Runs of `pipeline.detect` on photos: workers, interrupts, memory, imports, blurring."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.images import read_image, read_photo
from common.paths import find_images
from pipeline.detect import command as detect
from pipeline.detect import photos
from pipeline.detect.args import DetectArgs
from pipeline.detect.demo.command import portrait
from pipeline.detect.summary import MAX_FACE_TABLES
from pipeline.inference.predictor import Predictor
from tests.helpers.fake_predictor import FakePredictor, write_picture
from tests.helpers.video.run_detect import read_json, run_detect

ROOT = Path(__file__).resolve().parents[3]


def test_an_interrupted_run_leaves_the_old_results(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(Path("a.png"))
    assert run_detect("a.png", "--no-pictures") == 0
    before = Path("detections/detections.json").read_bytes()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "detect", interrupted)
    assert run_detect("a.png", "--no-pictures") == 130
    assert [p.name for p in Path("detections").iterdir()] == ["detections.json"]
    assert Path("detections/detections.json").read_bytes() == before


def test_an_interrupt_among_workers_ends_the_run(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        write_picture(Path(f"in/{i}.png"))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "detect", interrupted)
    assert run_detect("in", "--workers", "3") == 130
    assert not [path for path in Path("detections").rglob("*") if path.is_file()]


def test_several_workers_write_the_same_as_one(
    fake: FakePredictor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(12):
        write_picture(Path(f"in/{i}.png"), boxes=[(4 + i, 6, 20 + i, 24)])
    Path("in/5.png").write_bytes(b"broken")
    write_picture(Path("in/deep/3.png"))
    original, first = fake.read, threading.Event()

    def late_first(path: str, min_face: float | None) -> Any:
        if path.endswith(os.sep + "0.png"):
            first.wait(20)  # the first photo ends after the second
        else:
            first.set()
        return original(path, min_face)

    screens = []
    for workers in ("1", "4"):
        if workers == "4":
            monkeypatch.setattr(fake, "read", late_first)
        out = Path(f"out{workers}")
        command = ("in", "--out", out, "--csv", out / "t.csv", "--submission", out / "s.csv", "--workers", workers)
        assert run_detect(*command) == 1
        screen = capsys.readouterr()
        screens.append((screen.out.replace(str(out), "out"), screen.err))
    assert screens[0] == screens[1]
    written = [
        {p.relative_to(o): p.read_bytes() for p in o.rglob("*") if p.is_file()} for o in map(Path, ("out1", "out4"))
    ]
    assert written[0] == written[1] and len(written[0]) == 12 + 3


def test_default_workers_are_the_cores_and_share_malloc_arenas(
    fake: FakePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(9):
        write_picture(Path(f"in/{i}.png"))
    asked: list[Any] = []
    original = photos.map_ordered
    monkeypatch.setattr(detect, "limit_malloc_arenas", lambda: asked.append("heap"))
    monkeypatch.setattr(
        photos, "map_ordered", lambda f, jobs, threads: asked.append(threads) or original(f, jobs, threads)
    )
    for cores, options in ((3, []), (99, []), (3, ["--workers", "5"]), (3, ["--device", "cuda"])):
        monkeypatch.setattr("pipeline.inference.device.usable_cores", lambda cores=cores: cores)
        assert run_detect("in", "--no-pictures", *options) == 0
    assert run_detect("in/1.png", "--no-pictures") == 0
    assert asked == ["heap", 3, "heap", 8, "heap", 5, "heap", 1, "heap", 1]


def test_a_photo_read_at_a_reduced_size_is_drawn_in_full(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(Path("a.jpg"), size=(96, 64))
    monkeypatch.setattr(fake, "read", lambda path, min_face: read_photo(path, lambda size: 2))
    assert run_detect("a.jpg") == 0
    assert read_image("detections/a.jpg").shape == (64, 96, 3)
    assert (read_json()["images"][0]["width"], read_json()["images"][0]["height"]) == (96, 64)


HEAVY = "{'torch', 'torchvision', 'timm', 'matplotlib', 'scipy', 'sklearn', 'albumentations', 'facenet_pytorch'}"


def test_results_of_images_are_not_held_in_memory(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    original = photos.image_result

    def recorded(*args: Any) -> Any:
        result = original(*args)
        alive.append(weakref.ref(result))
        return result

    monkeypatch.setattr(photos, "image_result", recorded)
    for i in range(30):
        write_picture(Path(f"in/{i}.png"))
    summary = photos.detect_images(
        DetectArgs(("in",), csv=Path("t.csv"), submission=Path("s.csv"), pictures=False),
        find_images(["in"])[0],
        [],
        fake,
    )
    gc.collect()
    assert len(alive) == 30 and sum(ref() is not None for ref in alive) == len(summary.first_results) == MAX_FACE_TABLES
    assert len(read_json()["images"]) == 30


def test_nothing_of_the_training_extra_is_imported(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    script = f"""
import sys
from tests.helpers.fake_predictor import FakePredictor
from pipeline.detect import command as detect
from pipeline.detect.demo.command import portrait
from pipeline.inference.predictor import Predictor
import pipeline.inference.predictor
detect.load_predictor = lambda bundle, threads, device: FakePredictor()
code = detect.main(["a.png"])
print("imported:", sorted({HEAVY} & set(sys.modules)))
sys.exit(code)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stdout


@pytest.mark.parametrize(("flags", "imported"), [([], False), (["--no-boxes"], True)])
def test_photos_without_flags_are_read_without_tyro(tmp_path: Path, flags: list[str], imported: bool) -> None:
    script = f"""
import sys
from pipeline.detect.command import main
code = main(["missing.jpg", *{flags}])
print("tyro" in sys.modules)
sys.exit(code)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, f"{imported}\n") and "missing.jpg: not found" in done.stderr


def test_blur_makes_every_face_unrecognisable_also_those_below_the_score(tmp_path: Path) -> None:
    photo = portrait()
    Image.fromarray(photo).save(tmp_path / "p.png")
    (box,) = Predictor.default().detect(photo).boxes.astype(int)
    out = tmp_path / "out"
    assert run_detect(tmp_path / "p.png", "--out", out, "--blur", "--no-boxes", "--min-score", "0.999") == 0
    assert read_json(str(out / "detections.json"))["images"][0]["faces"] == []
    blurred = read_image(out / "p.png")
    x1, y1, x2, y2 = box
    before, after = (each[y1:y2, x1:x2].astype(float) for each in (photo, blurred))
    assert np.abs(np.diff(after, axis=1)).mean() < 0.3 * np.abs(np.diff(before, axis=1)).mean()
    np.testing.assert_array_equal(blurred[:, -50:], photo[:, -50:])


def test_blurred_pictures_have_boxes_and_no_landmarks(tmp_path: Path) -> None:
    photo = portrait()
    Image.fromarray(photo).save(tmp_path / "p.png")
    for name, *flags in (("plain", "--no-boxes"), ("boxes",)):
        assert run_detect(tmp_path / "p.png", "--out", tmp_path / name, "--blur", *flags) == 0
    plain, boxes = (read_image(tmp_path / name / "p.png") for name in ("plain", "boxes"))
    found = Predictor.default().detect(photo)
    assert (boxes != plain).any()
    for x, y in found.landmarks[0].astype(int):
        np.testing.assert_array_equal(boxes[y, x], plain[y, x])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_error_of_our_code_is_not_a_bad_photo(fake: FakePredictor, workers: str) -> None:
    for name in ("in/a.png", "in/b.png"):
        write_picture(Path(name))

    def broken(*_: object) -> None:
        raise AttributeError("nothing")

    fake.detect = broken  # type: ignore[assignment,method-assign]
    with pytest.raises(AttributeError, match="nothing"):
        run_detect("in", "--workers", workers)
    assert not Path("detections/detections.json").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_photo_that_needs_too_much_memory_is_a_bad_photo(
    fake: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    for name, size in (("in/a.png", (90, 60)), ("in/b.png", (200, 60)), ("in/c.png", (90, 60))):
        write_picture(Path(name), size=size)
    detect = fake.detect

    def limited(photo: Any, *args: Any) -> Any:
        if photo.size[0] > 100:
            raise RuntimeError("OpenCV: (-4:Insufficient memory) Failed to allocate 9 bytes")
        return detect(photo, *args)

    monkeypatch.setattr(fake, "detect", limited)
    assert run_detect("in", "--workers", workers) == 1
    line = "error: in/b.png: needs more memory than there is; make it smaller, or leave it out\n"
    assert capsys.readouterr().err == line
    assert [image["file"] for image in read_json()["images"]] == ["in/a.png", "in/c.png"]
    assert [error["file"] for error in read_json()["errors"]] == ["in/b.png"]


def test_a_picture_whose_name_cannot_be_written_costs_no_results(
    fake: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "\uac00" * 83 + ".webp"  # 254 bytes; the annotated picture's name has ".jpg" behind it
    for name in ("a.png", "b.png", "c.png"):
        write_picture(Path(name))
    Path("a.png").rename(long)
    Path("out/b.png").mkdir(parents=True)
    assert run_detect(long, "b.png", "c.png", "--out", "out", "--csv", "faces.csv") == 1
    lines = capsys.readouterr().err.splitlines()
    fix = "; rename the photo, or name another folder with --out"
    assert [line.split(": ")[:2] for line in lines] == [["error", long], ["error", "b.png"]]
    assert all("the annotated picture out/" in line and line.endswith(fix) for line in lines)
    assert [image["file"] for image in read_json("out/detections.json")["images"]] == [long, "b.png", "c.png"]
    assert Path("faces.csv").is_file() and Path("out/c.png").is_file()
