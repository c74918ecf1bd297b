"""pipeline.bench through its command line; how quick anything is, is not tested."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import bench
from pipeline.bench import BASELINE, OURS, Photo, choose, main
from pipeline.bundle import DEFAULT, Bundle, write_bundle
from pipeline.demo import portrait
from stage1_faces.detector import CascadeConfig
from stage1_faces.mtcnn import MtcnnConfig

QUICK = ["--rounds", "1", "--min-face", "40"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a face and a grey wall."""
    root = tmp_path / "photos"
    root.mkdir()
    Image.fromarray(portrait()).resize((192, 158)).save(root / "a.png")
    Image.new("RGB", (100, 120), "grey").save(root / "b.png")
    return root


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The record, which must be the only JSON on standard output and its last line."""
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("{") for line in lines) == 1
    record: dict[str, Any] = json.loads(lines[-1])
    return record


def test_both_detectors_in_one_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    assert main(["--data", str(photos), *QUICK, "--threads", "2"]) == 0
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
    record = last_line(capsys)
    assert set(record["machine"]) == {"cpu", "cores", "load", "system"}
    assert record["machine"]["cpu"] and record["machine"]["cores"] >= 1
    assert {"onnxruntime", "torch", "facenet-pytorch"} <= set(record["versions"])
    assert record["threads"] == 2 and record["min_face"] == 40 and record["rounds"] == 1
    assert record["photos"] == 2 and record["notes"] == []
    ours, theirs, batched = record["detectors"]
    assert [row["name"] for row in record["detectors"]] == [OURS, BASELINE, f"{OURS}, by 2"]
    assert [row["batch"] for row in record["detectors"]] == [1, 1, 2]
    for row in record["detectors"]:
        assert row["photos"] == 2
        assert 0 < row["ms"]["q1"] <= row["ms"]["median"] <= row["ms"]["q3"]
    assert theirs["faces_per_photo"] == 0.5
    assert ours["faces_per_photo"] == batched["faces_per_photo"] > 0
    assert theirs["ratio"] is None
    for row in (ours, batched):
        assert 0 < row["ratio"]["q1"] <= row["ratio"]["median"] <= row["ratio"]["q3"]


def test_the_table_stands_before_the_json(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(photos / "a.png"), *QUICK]) == 0
    screen = capsys.readouterr().out
    places = [screen.index(text) for text in ("ms per photo", BASELINE, "median of 1 rounds", "{")]
    assert places == sorted(places)


def test_without_data_a_portrait_is_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PORTRAIT_WIDTHS", (128, 160, 192, 224))
    assert main(["--photos", "2", *QUICK]) == 0
    record = last_line(capsys)
    assert record["data"] is None and record["photos"] == 2
    assert "portrait" in record["notes"][0]


def test_the_smallest_face_is_the_bundles_unless_told(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(photos / "b.png"), "--rounds", "1"]) == 0
    assert last_line(capsys)["min_face"] == Bundle.load().meta.search.min_face


@pytest.mark.slow
@pytest.mark.parametrize("cascade", ["fine-tuned", "stock"])
def test_bundles_of_either_cascade(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cascade: str
) -> None:
    from stage1_faces.export import FINE_TUNED, STOCK, export_cascade, stock_nets
    from stage1_faces.nets import Answers, build_net

    if cascade == "stock":
        graphs = export_cascade(stock_nets(), STOCK)
        meta = replace(Bundle.load().meta, search=MtcnnConfig())
    else:
        graphs = export_cascade({name: Answers(build_net(name)).eval() for name in FINE_TUNED}, FINE_TUNED)
        meta = replace(Bundle.load().meta, search=CascadeConfig())
    write_bundle(tmp_path / "made", meta, {**graphs, "classifier": (DEFAULT / "classifier.onnx").read_bytes()})
    assert main(["--data", str(photos), *QUICK, "--bundle", str(tmp_path / "made")]) == 0
    assert last_line(capsys)["bundle"] == {"name": "made", "cascade": cascade}


def test_photos_that_cannot_be_timed_are_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (200, 39)).save(photos / "flat.png")
    assert main(["--data", str(photos), *QUICK]) == 0
    record = last_line(capsys)
    assert record["photos"] == 2
    broken, flat = record["notes"]
    assert "broken.png" in broken and "not a picture" in broken
    assert "flat.png: is smaller than the smallest face, 40 px" in flat


def test_a_photo_that_facenet_fails_on_is_left_out_for_both(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from facenet_pytorch import MTCNN

    detect = MTCNN.detect

    def fails(self: MTCNN, image: Any) -> Any:
        if image.shape[1] == 100:
            raise RuntimeError("two\nlines")
        return detect(self, image)

    monkeypatch.setattr(MTCNN, "detect", fails)
    assert main(["--data", str(photos), *QUICK]) == 0
    record = last_line(capsys)
    assert [row["photos"] for row in record["detectors"]] == [1, 1, 1]
    (note,) = record["notes"]
    assert note.endswith("b.png: facenet-pytorch fails (two lines)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--photos", "0"], "--photos is 0, must be 1 or more"),
        (["--rounds", "0"], "--rounds is 0, must be 1 or more"),
        (["--threads", "-1"], "--threads is -1, must be 1 or more"),
        (["--min-face", "0.5"], "--min-face is 0.5, must be 1 pixel or more"),
        (["--min-face", "nan"], "--min-face is nan, must be 1 pixel or more"),
        (["--data", "nowhere"], "nowhere: not found; check the name"),
        (["--bundle", "nowhere"], "bundle.json: not found; name a bundle directory"),
        (["--min-face", "5000"], "not one photo can be timed; left out: portrait"),
    ],
)
def test_bad_input_is_one_clear_line(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(options) == 1
    screen = capsys.readouterr()
    assert screen.out == ""
    assert message in screen.err
    assert screen.err.startswith("error: ") and screen.err.count("\n") == 1


def test_a_folder_without_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert "holds no pictures" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "facenet_pytorch"])
def test_a_missing_extra_names_the_install_command(
    package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main([]) == 1
    error = capsys.readouterr().err
    assert f"this needs the package {package!r}; install it with `pip install -e '.[train]'`" in error
    assert error.count("\n") == 1


def test_photos_are_chosen_evenly() -> None:
    photos = [Photo(str(k), lambda: np.zeros((1, 1, 3), np.uint8)) for k in range(10)]
    assert [photo.name for photo in choose(photos, 4)] == ["0", "2", "5", "7"]
    assert choose(photos, 10) == choose(photos, 99) == photos


def test_the_processors_name(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    assert bench._cpu(file)  # no such file: what Python knows
    file.write_text("processor\t: 0\nmodel name\t: Fast: One\nmodel name\t: Fast: One\n")
    assert bench._cpu(file) == "Fast: One"
