"""`pipeline.detect` on photos: outputs, messages, bad input."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.images import read_image
from pipeline.detect import command as detect
from tests.helpers.fake_predictor import CLASSES, FakePredictor, write_picture
from tests.helpers.video.run_detect import read_json, read_rows, run_detect

BOX = (8, 6, 20, 24)


def test_one_photo(fake: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(Path("photo.png"))
    assert run_detect("photo.png") == 0
    assert read_json() == {
        "bundle": fake.bundle.describe(),
        "images": [
            {
                "file": "photo.png",
                "width": 48,
                "height": 32,
                "faces": [
                    {
                        "box": [8, 6, 20, 24],
                        "label": "with_mask",
                        "score": 0.63,
                        "face_score": 0.9,
                        "probs": {"with_mask": 0.7, "without_mask": 0.2, "mask_weared_incorrect": 0.1},
                        "unsure": False,
                        # 0.3, 0.7, 0.5, 0.35, 0.65 of 12 px from 8; 0.4, 0.4, 0.6, 0.8, 0.8 of 18 px from 6
                        "landmarks": [[11.6, 13.2], [16.4, 13.2], [14.0, 16.8], [12.2, 20.4], [15.8, 20.4]],
                    }
                ],
            }
        ],
        "errors": [],
    }
    drawn = read_image("detections/photo.png")
    assert drawn.shape == (32, 48, 3) and (drawn[6, 8:20] == (0, 158, 115)).all()
    out, err = capsys.readouterr()
    for text in ("photo.png", "48 x 32", "with_mask", "0.630", "0.900", " 8 ", " 24 "):
        assert text in out
    assert "detections/photo.png" in out and "detections/detections.json" in out and err == ""
    assert fake.calls == [(None, None)]


def test_options_reach_the_predictor(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(detect, "load_predictor", lambda *asked_for: asked.append(asked_for) or fake)
    write_picture(Path("a.png"))
    assert run_detect("a.png", "--bundle", "b", "--threads", "3", "--min-score", "0", "--min-face", "12.5") == 0
    assert asked == [(Path("b"), 3, "cpu")] and fake.calls == [(0.0, 12.5)]


def test_boxes_are_in_the_upright_photo(fake: FakePredictor) -> None:
    stored = np.rot90(read_image(write_picture(Path("upright.png"))), 1)  # as stored with orientation 6
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(stored)).save("turned.png", exif=exif)
    assert run_detect("upright.png", "turned.png", "--no-pictures") == 0
    upright, turned = read_json()["images"]
    assert upright["faces"] == turned["faces"] and (turned["width"], turned["height"]) == (48, 32)


def test_csv_and_submission(fake: FakePredictor) -> None:
    write_picture(Path("in/a.png"), [BOX, (30, 10, 40, 20)])
    write_picture(Path("in/none.png"), [])
    write_picture(Path("in/x/same.png"))
    write_picture(Path("in/y/same.png"), [])
    Path("in/broken.png").write_bytes(b"no picture")
    args = ("--csv", "t/faces.csv", "--submission", "t/sub.csv", "--json", "t/all.json", "--no-pictures")
    assert run_detect("in", *args) == 1
    assert not Path("detections").exists()
    header, *faces = read_rows("t/faces.csv")
    assert header == ["file", "width", "height", "x1", "y1", "x2", "y2", "label", "score", "face_score"] + [
        f"p_{name}" for name in CLASSES
    ] + ["unsure"]
    box, scores = ["8.0", "6.0", "20.0", "24.0"], ["with_mask", "0.63", "0.9", "0.7", "0.2", "0.1", "false"]
    assert faces == [
        ["in/a.png", "48", "32", *box, *scores],
        ["in/a.png", "48", "32", "30.0", "10.0", "40.0", "20.0", *scores],
        ["in/x/same.png", "48", "32", *box, *scores],
    ]
    assert read_rows("t/sub.csv") == [
        ["image_id", "PredictionString"],
        ["a", "with_mask 0.63 8.0 6.0 20.0 24.0 with_mask 0.63 30.0 10.0 40.0 20.0"],
        ["broken", ""],
        ["none", ""],
        ["x/same.png", "with_mask 0.63 8.0 6.0 20.0 24.0"],
        ["y/same.png", ""],
    ]
    assert [len(image["faces"]) for image in read_json("t/all.json")["images"]] == [2, 0, 1, 0]


def test_bad_files_are_reported_and_the_others_are_processed(
    fake: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(Path("a.png"))
    Path("b.jpg").write_bytes(Path("a.png").read_bytes()[:-40])
    write_picture(Path("c.png"))
    assert run_detect("a.png", "b.jpg", "missing.jpg", "c.png") == 1
    out, err = capsys.readouterr()
    assert [line.split(": ")[:2] for line in err.splitlines()] == [["error", "missing.jpg"], ["error", "b.jpg"]]
    result = read_json()
    assert [image["file"] for image in result["images"]] == ["a.png", "c.png"]
    assert [error["file"] for error in result["errors"]] == ["missing.jpg", "b.jpg"]
    assert result["errors"][0]["error"] == "not found; check the name"
    assert "failed: 2" in out


def test_bad_files_alone_leave_a_complete_json(fake: FakePredictor) -> None:
    Path("a.jpg").touch()
    assert run_detect("a.jpg") == 1
    assert read_json()["images"] == [] and len(read_json()["errors"]) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["empty"], ("empty: ", "no pictures")),
        (["nothing*.jpg"], ("nothing*.jpg: ", "pattern")),
        ([], ("no pictures",)),
        (["a.png", "--min-score", "1.5"], ("--min-score is 1.5; ", "0 to 1")),
        (["a.png", "--min-score", "nan"], ("--min-score is nan; ",)),
        (["a.png", "--min-face", "0"], ("--min-face is 0; ", "1 pixel")),
        (["a.png", "--threads", "0"], ("--threads is 0; ", "1 or more")),
        (["a.png", "--workers", "-1"], ("--workers is -1; ", "1 or more")),
        (["a.png", "--every", "2"], ("--every: ", "--frame-stride")),
        (["a.png", "--every=2"], ("--every: ", "--frame-stride")),
        (["a.png", "--out", "a.png"], ("a.png: ", "cannot be written", "--out")),
        (["a.png", "--json", "a.png/x.json"], ("a.png/x.json: ", "cannot be written", "--json")),
        (["a.png", "--csv", "a.png/x.csv"], ("a.png/x.csv: ", "cannot be written", "--csv")),
        (["a.png", "--json", "a.png"], ("a.png: ", "is one of the inputs", "--json")),
        (["a.png", "--json", "empty"], ("empty: ", "folder", "--json")),
        (["a.png", "--csv", "/dev/null"], ("/dev/null: ", "device", "--csv")),
        (["a.png", "--csv", "x", "--submission", "./x"], ("x: ", "both --csv and --submission")),
        (["photos", "--out", "./photos"], ("photos: ", "--out", "folder of pictures")),
        (["a.png", "--frame-stride", "2"], ("--frame-stride is for videos",)),
        (["a.png", "--max-fps", "2"], ("--max-fps is for videos",)),
        (["a.png", "--seconds", "2"], ("--seconds is for videos",)),
        (["a.png", "--events", "e.csv"], ("--events is for videos",)),
        (["a.png", "--webhook", "http://x"], ("--webhook is for videos",)),
        (["a.png", "--show"], ("--show is for videos",)),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    fake: FakePredictor, capsys: pytest.CaptureFixture[str], args: list[str], words: tuple[str, ...]
) -> None:
    write_picture(Path("a.png"))
    write_picture(Path("photos/b.png"))
    Path("empty").mkdir()
    assert run_detect(*args) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {words[0]}") and all(word in err for word in words) and err.count("\n") == 1
    assert fake.calls == []
    files = sorted(str(path) for path in Path().rglob("*") if path.is_file())
    assert files == ["a.png", "photos/b.png"]


def test_pictures_keep_their_folders_and_never_collide(fake: FakePredictor) -> None:
    sources = ["in/a.png", "in/a.jpg", "in/A.JPG", "in/a.tif", "in/a.tif.jpg", "in/deep/a.png", "other/a.png"]
    for source in sources:
        write_picture(Path(source))
    assert run_detect("in", "other") == 0
    files = [path for path in Path("detections").rglob("*") if path.is_file() and path.suffix != ".json"]
    assert len(files) == len({str(path).lower() for path in files}) == len(sources)
    names = {str(path.relative_to("detections")).lower() for path in files}
    assert {"a.png", "a.jpg", "a.tif.jpg", "a.tif-2.jpg", "a-2.png", "deep/a.png"} <= names


def test_no_input_is_overwritten_and_outputs_are_not_read_again(fake: FakePredictor) -> None:
    original = write_picture(Path("photo.png")).read_bytes()
    assert run_detect("photo.png", "--out", ".") == 0
    assert Path("photo.png").read_bytes() == original and Path("photo-2.png").exists()
    write_picture(Path("set/photo.png"))
    for _ in range(2):  # the second run finds the pictures of the first one below the folder
        assert run_detect("set", "--out", "set/out") == 0
        assert [image["file"] for image in read_json("set/out/detections.json")["images"]] == ["set/photo.png"]


def test_a_link_in_the_output_folder_that_leads_to_an_input_is_left_alone(fake: FakePredictor) -> None:
    original = write_picture(Path("photo.png")).read_bytes()
    Path("out").mkdir()
    Path("out/photo.png").symlink_to("../photo.png")
    assert run_detect("photo.png", "--out", "out") == 0
    assert Path("photo.png").read_bytes() == original and Path("out/photo-2.png").is_file()


def test_many_files_give_a_summary(fake: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        write_picture(Path(f"in/{i}.png"), [BOX] if i else [])
    assert run_detect("in", "--no-pictures") == 0
    out = capsys.readouterr().out
    assert "images: 6, faces: 5, images without a face: 1" in out and "0.630" in out and "without_mask" in out


@pytest.mark.parametrize(("margin", "unsure"), [(0.4, False), (0.6, True)])  # the two best classes are 0.5 apart
def test_an_unsure_face_is_marked_in_every_output(
    fake: FakePredictor, capsys: pytest.CaptureFixture[str], margin: float, unsure: bool
) -> None:
    fake.unsure_margin = margin
    write_picture(Path("a.png"))
    assert run_detect("a.png", "--csv", "t.csv", "--submission", "s.csv") == 0
    (face,) = read_json()["images"][0]["faces"]
    assert face["unsure"] is unsure and face["label"] == "with_mask"
    assert read_rows("t.csv")[1][-1] == ("true" if unsure else "false")
    assert read_rows("s.csv")[1][1].startswith("with_mask 0.63 ")  # the scorer of a competition knows class names only
    assert ("with_mask?" in capsys.readouterr().out) == unsure


def test_many_files_give_the_number_of_unsure_faces(fake: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    fake.unsure_margin = 0.6
    for i in range(6):
        write_picture(Path(f"in/{i}.png"), [BOX, (30, 10, 40, 20)] if i < 2 else [])
    assert run_detect("in", "--no-pictures") == 0
    lines = capsys.readouterr().out.splitlines()
    cells = next(line for line in lines if "with_mask" in line).replace("│", " ").split()
    assert cells == ["with_mask", "4", "4", "2", "0.630"]  # faces, unsure, images, mean score


def test_odd_file_names(fake: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["[red]a.png", "口罩.png", "line\nbreak.png", os.fsdecode(b"caf\xe9.png"), 'a,b".png']
    data = write_picture(Path("in.png")).read_bytes()
    for name in names:
        Path(name).write_bytes(data)
    assert run_detect(*names, "--csv", "t.csv", "--submission", "s.csv") == 0
    written = [image["file"] for image in read_json()["images"]]
    assert written == [*names[:3], "caf\N{REPLACEMENT CHARACTER}.png", names[4]]
    assert [row[0] for row in read_rows("t.csv")[1:]] == written
    assert "[red]a.png" in capsys.readouterr().out
    assert len(list(Path("detections").glob("*.png"))) == 5


def test_a_terminal_without_unicode(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(Path("a.png")).rename("口罩.png")
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    assert run_detect("口罩.png") == 0
    screen.flush()
    assert b"detections/??.png" in screen.buffer.getvalue()


def test_scores_agree_with_the_written_factors(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers.fake_predictor import fake_detections

    rng = np.random.default_rng(0)
    probs = rng.dirichlet([1, 1, 1], 50)
    found = fake_detections(rng.uniform(0, 30, (50, 4)), probs, rng.uniform(0, 1, 50))
    monkeypatch.setattr(fake, "detect", lambda *_: found)
    write_picture(Path("a.png"))
    assert run_detect("a.png", "--no-pictures") == 0
    for i, face in enumerate(read_json()["images"][0]["faces"]):
        assert face["score"] == round(face["face_score"] * face["probs"][face["label"]], 6)
        assert face["score"] == pytest.approx(found.scores[i], abs=2e-6)
        assert face["label"] == max(face["probs"], key=face["probs"].get)


def test_a_class_with_a_space_cannot_go_into_a_submission(
    fake: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.helpers.fake_predictor import FakeMeta

    monkeypatch.setattr(fake.bundle, "meta", FakeMeta(("with mask", "b", "c")), raising=False)
    write_picture(Path("a.png"))
    assert run_detect("a.png", "--submission", "s.csv", "--no-pictures") == 1
    assert "a submission cannot hold class 'with mask'" in capsys.readouterr().err
    assert not Path("s.csv").exists() and not list(Path("detections").iterdir())


def test_no_boxes_writes_the_photo_unchanged(fake: FakePredictor) -> None:
    write_picture(Path("photo.png"))
    assert run_detect("photo.png", "--no-boxes") == 0
    np.testing.assert_array_equal(read_image("detections/photo.png"), read_image("photo.png"))
    assert len(read_json()["images"][0]["faces"]) == 1
