"""Hard negatives and landmarks that the cascade gives to stage 2's training, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.annotations import AnnotatedImage
from common.boxes import MAX_IGNORED_SHARE
from common.errors import UserError
from pipeline.data.hard_negatives import (
    MAX_BACKGROUND_IOU,
    MIN_SCORE,
    SAME_FACE_IOU,
    MinedFaces,
    load_detector,
    mine_faces,
)
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.faces import Faces
from stage1_faces.training import export
from stage1_faces.training.export import FINE_TUNED
from stage1_faces.training.nets import build_net
from stage1_faces.training.run_folder import FinetuneFolder
from tests.helpers.fake_predictor import ScriptedDetector, write_picture

SIZE = (64, 48)
BOX = (10.0, 10.0, 20.0, 20.0)


def faces(*boxes: tuple[float, ...]) -> Faces:
    """Return faces, best first; the landmarks of face k are ten numbers from 100 * k on."""
    n = len(boxes)
    points = np.float32([np.arange(10) + 100 * k for k in range(n)]).reshape(n, 5, 2)
    return Faces(np.float32(boxes).reshape(-1, 4), np.linspace(0.9, 0.1, n, dtype=np.float32), points)


def annotated(folder: Path, name: str, *boxes: tuple[float, ...]) -> AnnotatedImage:
    array = np.float32(boxes).reshape(-1, 4)
    return AnnotatedImage(write_picture(folder / f"{name}.png", (), SIZE), name, SIZE, array, ("face",) * len(array))


def mined(folder: Path, found: Faces, *boxes: tuple[float, ...]) -> MinedFaces:
    return mine_faces(ScriptedDetector(found), [annotated(folder, "one", *boxes)])["one"]  # type: ignore[arg-type]


def test_no_hard_negative_is_over_an_ignored_place(tmp_path: Path) -> None:
    # Ignored: 10 x 10 px. Shares of the smaller: 0.2, 0.4 beside it, all of it inside a large one, all inside it.
    ignored = (40.0, 20.0, 50.0, 30.0)
    near, over = (48.0, 20.0, 58.0, 30.0), (46.0, 20.0, 56.0, 30.0)
    around, within = (20.0, 4.0, 60.0, 44.0), (42.0, 22.0, 46.0, 26.0)
    assert 0.2 < MAX_IGNORED_SHARE < 0.4
    found = faces(over, near, around, within, BOX)
    for boxes, left in (((BOX,), [near]), ((), [near, BOX])):
        image = replace(annotated(tmp_path, "one", *boxes), ignored=np.float32([ignored]))
        alarms = mine_faces(ScriptedDetector(found), [image])["one"]  # type: ignore[arg-type]
        assert alarms.hard_negatives.tolist() == [list(box) for box in left]
        assert alarms.landmarks == (points(4),) * len(boxes)


def points(k: int) -> tuple[float, ...]:
    return tuple(float(v) for v in np.arange(10) + 100 * k)


def test_hard_negatives_are_apart_from_every_face(tmp_path: Path) -> None:
    # Overlap with the face's 100 square px: all, 2/5 (IoU 0.25), 1/2 (IoU 1/3: neither face nor background), 0.
    alarm, near, away = (10.0, 16.0, 20.0, 26.0), (10.0, 15.0, 20.0, 25.0), (40.0, 30.0, 50.0, 40.0)
    assert 0.25 < MAX_BACKGROUND_IOU < 1 / 3 < SAME_FACE_IOU
    found = mined(tmp_path, faces(BOX, alarm, near, away), BOX)
    assert found.hard_negatives.tolist() == [list(alarm), list(away)]
    assert found.hard_negatives.dtype == np.float32
    assert found.landmarks == (points(0),)


def test_landmarks_are_those_of_the_best_fit(tmp_path: Path) -> None:
    other = (30.0, 10.0, 40.0, 20.0)
    loose = (10.0, 10.0, 20.0, 26.0)  # IoU 0.625
    poor = (30.0, 10.0, 40.0, 31.0)  # IoU 10/21
    found = mined(tmp_path, faces(loose, BOX, poor), BOX, other)
    assert found.landmarks == (points(1), ())  # the second face's candidate is too loose
    assert len(found.hard_negatives) == 0


def test_photos_without_faces_or_without_candidates(tmp_path: Path) -> None:
    every = mined(tmp_path, faces(BOX))
    assert every.hard_negatives.tolist() == [list(BOX)] and every.landmarks == ()
    none = mined(tmp_path, Faces.empty(), BOX, BOX)
    assert none.hard_negatives.shape == (0, 4) and none.landmarks == ((), ())
    assert mined(tmp_path, Faces.empty()).hard_negatives.shape == (0, 4)


def test_photos_are_mined_by_name_without_unreadable_ones(tmp_path: Path) -> None:
    images = [annotated(tmp_path, name, BOX) for name in ("a", "b", "c")]
    images[1].path.write_bytes(b"no picture")
    detector = ScriptedDetector(faces(BOX), faces((40.0, 30.0, 50.0, 40.0)))
    found = mine_faces(detector, images)  # type: ignore[arg-type]
    assert list(found) == ["a", "c"]
    assert [len(one.hard_negatives) for one in found.values()] == [0, 1]
    assert detector.asked == [MIN_SCORE] * 2


def test_several_threads_keep_the_photos_order(tmp_path: Path) -> None:
    class ByWidth:
        def detect(self, image: np.ndarray, min_score: float) -> Faces:
            return faces((1.0, 1.0, float(image.shape[1]), 9.0))

    images = [annotated(tmp_path, f"{k}") for k in range(6)]
    for k, image in enumerate(images):
        Image.new("RGB", (20 + k, 10)).save(image.path)
    found = mine_faces(ByWidth(), images, workers=3)  # type: ignore[arg-type]
    assert [float(one.hard_negatives[0][2]) for one in found.values()] == [20.0 + k for k in range(6)]


def test_the_cascade_of_a_run_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FinetuneFolder(tmp_path / "run")
    folder.claim({"format": 1})
    torch.manual_seed(0)
    nets = {name: build_net(name) for name in FINE_TUNED}
    for name, net in nets.items():
        folder.save_net(name, net, {})

    def exported(given: dict[str, torch.nn.Module], how: object) -> dict[str, bytes]:
        assert how is FINE_TUNED
        for name, net in nets.items():
            own = given[name].state_dict().values()
            assert all(torch.equal(a, b) for a, b in zip(own, net.state_dict().values(), strict=True))
        return {name: name.encode() for name in given}

    monkeypatch.setattr(export, "export_cascade", exported)
    monkeypatch.setattr(export, "onnx_function", lambda graph: graph)
    detector = load_detector(folder.path)
    assert (detector._pnet, detector._rnet, detector._onet) == (b"pnet", b"rnet", b"onet")
    assert detector.config == CascadeConfig()
    with pytest.raises(UserError, match=r"pnet\.safetensors: not found; train it with"):
        load_detector(tmp_path / "nowhere")
