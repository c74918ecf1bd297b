"""pipeline.bench through its command line; speed itself is not tested."""

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
import tyro
from PIL import Image

from pipeline.bench import command as bench
from pipeline.bench import photos as bench_photos
from pipeline.bench.command import main
from pipeline.bench.competitors import CASCADE, CLASSIFIER, FACENET, NAIVE, PIPELINE
from pipeline.bench.environment import cpu_model
from pipeline.bench.photos import BenchPhoto, evenly_spaced
from pipeline.detect.demo.command import portrait
from pipeline.inference.bundle import DEFAULT, Bundle, write_bundle
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.stock.mtcnn import MtcnnConfig

QUICK = ["--rounds", "1", "--min-face", "40", "--parts"]
PHOTOS = [*QUICK, "photos"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with a portrait and a grey photo."""
    root = tmp_path / "photos"
    root.mkdir()
    Image.fromarray(portrait()).resize((192, 158)).save(root / "a.png")
    Image.new("RGB", (100, 120), "grey").save(root / "b.png")
    return root


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the record, which must be the only JSON on standard output and its last line."""
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("{") for line in lines) == 1
    record: dict[str, Any] = json.loads(lines[-1])
    return record


@pytest.mark.slow
def test_all_detectors_in_one_run(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    assert main(["--data", str(photos), *PHOTOS, "--threads", "2"]) == 0
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before
    record = last_line(capsys)
    assert set(record["machine"]) == {"cpu", "cores", "load", "system"}
    assert record["machine"]["cpu"] and record["machine"]["cores"] >= 1
    assert {"onnxruntime", "torch", "facenet-pytorch", "timm"} <= set(record["versions"])
    assert record["threads"] == 2 and record["min_face"] == 40 and record["rounds"] == 1 and record["notes"] == []
    assert record["device"] == "cpu" and record["naive_model"] == "mobilenetv3_small_100"
    timed = record["photos"]
    assert timed["photos"] == 2
    rows = {row["name"]: row for row in timed["detectors"]}
    assert list(rows) == [PIPELINE, f"{PIPELINE}, by 2", CASCADE, CLASSIFIER, NAIVE, FACENET]
    assert [row["batch"] for row in rows.values()] == [1, 2, 1, 1, 1, 1]
    for row in rows.values():
        assert row["photos"] == 2
        assert 0 < row["ms"]["q1"] <= row["ms"]["median"] <= row["ms"]["q3"]
    assert rows[NAIVE]["faces_per_photo"] == rows[FACENET]["faces_per_photo"] == 0.5
    assert rows[PIPELINE]["faces_per_photo"] == rows[f"{PIPELINE}, by 2"]["faces_per_photo"] > 0
    assert rows[CASCADE]["faces_per_photo"] == rows[CLASSIFIER]["faces_per_photo"] >= rows[PIPELINE]["faces_per_photo"]
    assert [(pair["slow"], pair["quick"]) for pair in timed["ratios"]] == [
        (FACENET, CASCADE),
        (NAIVE, PIPELINE),
        (NAIVE, f"{PIPELINE}, by 2"),
    ]
    for pair in timed["ratios"]:
        assert 0 < pair["q1"] <= pair["median"] <= pair["q3"]


def test_other_parts_are_left_out_unless_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(photos), *QUICK, "folder"]) == 0
    record = last_line(capsys)
    assert "photos" not in record and "sizes" not in record and record["folder"]["photos"] == 2


@pytest.mark.slow
def test_the_command_the_folder_and_memory(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "--data",
                str(photos),
                *QUICK,
                "command",
                "folder",
                "memory",
                "video",
                "--memory-photos",
                "12",
                "--hours",
                "0.005",
            ]
        )
        == 0
    )
    screen = capsys.readouterr().out
    for title in ("The whole command on one photo", "Over a folder of 2 photos", "Memory over many photos"):
        assert title in screen
    record = json.loads(screen.splitlines()[-1])
    assert record["command"]["photo"] == "a.png" and record["command"]["seconds"]["median"] > 0
    # The process measured is a new one without PyTorch; this one holds PyTorch.
    assert 40 < record["command"]["megabytes"]["median"] < 400
    assert record["video"]["video_seconds"] == [10, 18] and all(
        40 < each < 400 for each in record["video"]["megabytes"]
    )
    assert record["memory"]["photos"] == [2, 12] and all(40 < each < 400 for each in record["memory"]["megabytes"])
    names = [way["name"] for way in record["folder"]["ways"]]
    assert names[0] == f"{PIPELINE}, 1 worker" and names[-1] == NAIVE
    first, *_, naive = record["folder"]["ways"]
    assert first["faces_per_photo"] == naive["faces_per_photo"] == 0.5


def test_sizes_and_numbers_of_faces(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_photos, "SIZES", ((240, 200), (320, 160)))
    monkeypatch.setattr(bench_photos, "FACES", (0, 2))
    assert main(["--data", str(photos / "a.png"), *QUICK, "sizes"]) == 0
    record = last_line(capsys)
    assert [(one["width"], one["height"], one["faces"]) for one in record["sizes"]] == [
        (240, 200, 0),
        (240, 200, 2),
        (320, 160, 0),
        (320, 160, 2),
    ]
    for one in record["sizes"]:
        assert one["failing"] is None
        assert one["ms"][PIPELINE]["faces"] == one["ms"][NAIVE]["faces"] == one["faces"]


def test_the_tables_come_before_the_json(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(photos / "a.png"), *PHOTOS]) == 0
    screen = capsys.readouterr().out
    positions = [screen.index(text) for text in ("ms per photo", FACENET, "Times as long", "median of 1 rounds", "{")]
    assert positions == sorted(positions)


def test_without_data_a_portrait_is_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_photos, "PORTRAIT_WIDTHS", (128, 160, 192, 224))
    assert main(["--photos", "2", *PHOTOS]) == 0
    record = last_line(capsys)
    assert record["data"] is None and record["photos"]["photos"] == 2
    assert "portrait" in record["notes"][0]


def test_the_smallest_face_is_the_bundles_by_default(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(photos / "b.png"), "--rounds", "1", "--parts", "photos"]) == 0
    assert last_line(capsys)["min_face"] == Bundle.load().meta.search.min_face


@pytest.mark.slow
@pytest.mark.parametrize("cascade", ["fine-tuned", "stock"])
def test_bundles_of_either_cascade(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cascade: str
) -> None:
    from stage1_faces.training.export import FINE_TUNED, STOCK, export_cascade, stock_nets
    from stage1_faces.training.nets import ExportWrapper, build_net

    if cascade == "stock":
        graphs = export_cascade(stock_nets(), STOCK)
        meta = replace(Bundle.load().meta, search=MtcnnConfig())
    else:
        graphs = export_cascade({name: ExportWrapper(build_net(name)).eval() for name in FINE_TUNED}, FINE_TUNED)
        meta = replace(Bundle.load().meta, search=CascadeConfig())
    write_bundle(tmp_path / "made", meta, {**graphs, "classifier": (DEFAULT / "classifier.onnx").read_bytes()})
    assert main(["--data", str(photos), *PHOTOS, "--bundle", str(tmp_path / "made")]) == 0
    assert last_line(capsys)["bundle"] == {"name": "made", "cascade": cascade}


def test_photos_that_cannot_be_timed_are_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (200, 39)).save(photos / "flat.png")
    assert main(["--data", str(photos), *PHOTOS]) == 0
    record = last_line(capsys)
    assert record["photos"]["photos"] == 2
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
    assert main(["--data", str(photos), *PHOTOS]) == 0
    record = last_line(capsys)
    assert {row["photos"] for row in record["photos"]["detectors"]} == {1}
    (note,) = record["notes"]
    assert note.endswith("b.png: naive pipeline fails (two lines)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "a.onnx"], "--against: has a new name; use --competitor"),
        (["--many=9"], "--many: has a new name; use --memory-photos"),
        (["--photos", "0"], "--photos is 0; use 1 or more"),
        (["--rounds", "0"], "--rounds is 0; use 1 or more"),
        (["--threads", "-1"], "--threads is -1; use 1 or more"),
        (["--min-face", "0.5"], "--min-face is 0.5; use 1 pixel or more"),
        (["--min-face", "nan"], "--min-face is nan; use 1 pixel or more"),
        (["--data", "nowhere"], "nowhere: not found; check the name"),
        (["--bundle", "nowhere"], "bundle.json: not found; name a bundle directory"),
        (["--min-face", "5000"], "not one photo can be timed; left out: "),
        (["--memory-photos", "0"], "--memory-photos is 0; use 1 or more"),
        (["--naive-model", "resnet1"], "--naive-model is 'resnet1', which timm does not know"),
        (["--competitor", "nowhere.onnx"], "nowhere.onnx: not found; name an ONNX file, or use --competitor stand-in"),
        (["--device", "cuda"], "device cuda: this ONNX Runtime runs on the CPU only"),
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
    tyro.extras.get_parser(bench.BenchArgs)  # tyro looks for torch once, and would take this None for it
    monkeypatch.setitem(sys.modules, package, None)
    assert main([]) == 1
    error = capsys.readouterr().err
    how = "in the project's folder, run `make install`, or `pip install '.[train]'` in an environment of your own"
    assert f"this needs the package {package!r}; {how}" in error
    assert error.count("\n") == 1


def test_photos_are_chosen_evenly() -> None:
    photos = [BenchPhoto(str(k), lambda: np.zeros((1, 1, 3), np.uint8)) for k in range(10)]
    assert [photo.name for photo in evenly_spaced(photos, 4)] == ["0", "2", "5", "7"]
    assert evenly_spaced(photos, 10) == evenly_spaced(photos, 99) == photos


def test_the_name_of_the_processor(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    assert cpu_model(file)  # without the file: the name that Python has
    file.write_text("processor\t: 0\nmodel name\t: Fast: One\nmodel name\t: Fast: One\n")
    assert cpu_model(file) == "Fast: One"
