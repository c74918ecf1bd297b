"""The exported detector: the answers of Predictor, any size, optional inputs, and what its file says of itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import onnx
import pytest

from common.annotations.loading import load_dataset
from common.boxes import iou
from common.images import read_image
from pipeline.bench.exported import agreeing
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.detect.demo.command import portrait
from pipeline.evaluate.evaluation import detect_samples
from pipeline.evaluate.metrics import score_every_class, score_samples
from pipeline.export.command import main
from pipeline.export.exported_detector import ExportedDetector
from pipeline.export.graph.detector_graph import OUTPUTS
from pipeline.inference.bundle import Bundle
from pipeline.inference.predictor import Predictor


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "detector.onnx"
    assert main(["--out", str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def detector(exported: Path) -> ExportedDetector:
    return ExportedDetector(exported, Bundle.load())


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "faces"), [(320, 240, 1), (641, 427, 6), (90, 120, 1)])
def test_the_answers_of_the_predictor(detector: ExportedDetector, width: int, height: int, faces: int) -> None:
    image = synthetic_photo(width, height, faces)
    expected, found = Predictor.default().detect(image), detector.detect(image)
    assert len(expected) == len(found) == agreeing(expected, found) > 0
    partner = iou(expected.boxes, found.boxes).argmax(axis=1)
    np.testing.assert_allclose(found.scores[partner], expected.scores, atol=0.05)
    np.testing.assert_allclose(found.class_probs[partner], expected.class_probs, atol=0.08)
    sides = np.sqrt(np.prod(expected.boxes[:, 2:] - expected.boxes[:, :2], axis=1))
    distance = np.linalg.norm(found.landmarks[partner] - expected.landmarks, axis=2).max(axis=1)
    assert (distance < 0.1 * sides).all()
    assert (np.diff(found.scores) <= 0).all()  # best first


@pytest.mark.slow
def test_nearly_all_faces_are_the_same(detector: ExportedDetector) -> None:
    """99% of the faces have a partner at IoU 0.95 with the same label, at many sizes of photos and faces."""
    predictor, faces, same = Predictor.default(), 0, 0
    for k in range(12):
        image = synthetic_photo(300 + 83 * k, 260 + 61 * k, 9)
        expected = predictor.detect(image)
        faces += len(expected)
        same += agreeing(expected, detector.detect(image))
    assert faces > 80 and same >= 0.99 * faces


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 300), (40, 40), (500, 8000), (1, 20000), (4000, 1)])
def test_pictures_of_any_size_without_faces(detector: ExportedDetector, size: tuple[int, int]) -> None:
    found = detector.run(np.full((*size, 3), 127, np.uint8))
    assert [found[name].shape for name in OUTPUTS] == [(0, 4), (0,), (0,), (0, 3), (0, 5, 2)]
    assert found["labels"].dtype == np.int64 and found["boxes"].dtype == np.float32


def test_optional_inputs(detector: ExportedDetector) -> None:
    image = synthetic_photo(480, 320, 4)
    every, few = detector.run(image, min_score=0.0), detector.run(image, min_score=0.999)
    assert len(every["boxes"]) > len(detector.run(image)["boxes"]) >= len(few["boxes"])
    side = float((detector.run(image)["boxes"][0, 2:] - detector.run(image)["boxes"][0, :2]).max())
    assert len(detector.run(image, min_face=4 * side)["boxes"]) == 0
    predictor = Predictor.default()
    assert len(detector.run(image, min_face=20.0)["boxes"]) == len(predictor.detect(image, min_face=20.0))


@pytest.mark.parametrize("min_face", [0.5, 0.001])
def test_a_smallest_face_below_one_pixel_counts_as_one(detector: ExportedDetector, min_face: float) -> None:
    image = synthetic_photo(48, 40, 1)
    expected, found = (detector.run(image, min_score=0.0, min_face=value) for value in (1.0, min_face))
    assert len(expected["boxes"]) > 0
    for name in OUTPUTS:
        assert found[name].tolist() == expected[name].tolist()


@pytest.mark.parametrize("side", [124, 250, 496])
def test_a_smallest_face_larger_than_the_photo(detector: ExportedDetector, side: int) -> None:
    image = np.asarray(cv2.resize(portrait()[:512, :512], (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    for times in (1.1, 1.2, 3.0):
        expected = Predictor.default().detect(image, min_face=times * side)
        assert len(detector.run(image, min_face=times * side)["boxes"]) == len(expected)


def test_the_file_is_standard_and_says_what_it_is(exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain: opset.version for opset in model.opset_import}.keys() == {""}
    assert 17 <= model.opset_import[0].version <= 21 and not model.functions
    said = {entry.key: entry.value for entry in model.metadata_props}
    meta = Bundle.load().meta
    assert json.loads(said["class_names"]) == list(meta.class_names)
    assert float(said["score_threshold"]) == meta.score_threshold
    assert json.loads(said["bundle_sha256"]) == meta.sha256 and "provenance" in said and said["license"] == "MIT"


def operators(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the operators of a graph and of its loops and branches, without constants."""
    for node in graph.node:
        if node.op_type != "Constant":
            yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from operators(attribute.g)


def test_the_operators_are_standard_and_as_many_as_documented(exported: Path) -> None:
    found = list(operators(onnx.load(exported).graph))
    assert {node.domain for node in found} == {""}
    kinds = Counter(node.op_type for node in found)
    assert kinds["Loop"] == 8 and kinds["If"] == 1
    text = (Path(__file__).resolve().parents[3] / "docs/deploy.md").read_text(encoding="utf-8")
    assert f"has {len(found):,} operators of {len(kinds)} kinds (constants not counted), with 8 loops and one" in text


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "a.txt")]) == 1
    assert "is not named .onnx" in capsys.readouterr().err
    (tmp_path / "b.onnx").mkdir()
    assert main(["--out", str(tmp_path / "b.onnx")]) == 1
    assert "is a folder" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "c.onnx"), "--bundle", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    folder = str(tmp_path / "d")
    assert main(["--hub", folder, "--all-inputs"]) == 1
    assert "--all-inputs is for the file of --out" in capsys.readouterr().err
    assert main(["--hub", folder, "--web", folder]) == 1
    assert "both name" in capsys.readouterr().err
    assert main(["--hub", folder, "--runtime", str(tmp_path)]) == 1
    assert "--runtime is for the page of --web" in capsys.readouterr().err
    assert main(["--hub", folder, "--out", f"{folder}/d.onnx"]) == 1
    assert "is in the folder of --hub" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["--hub", folder, "--out", str(tmp_path / "file" / "e.onnx")]) == 1  # before the folder is written
    assert len(capsys.readouterr().err.splitlines()) == 1
    (tmp_path / "file").unlink()
    for name in ("bundle.json", "classifier.onnx"):
        (tmp_path / "b.onnx" / name).write_bytes(b"as it was")
    assert main(["--out", str(tmp_path / "b.onnx/classifier.onnx")]) == 1
    assert "classifier.onnx: is a file of a bundle, which needs it; name another file" in capsys.readouterr().err
    assert (tmp_path / "b.onnx/classifier.onnx").read_bytes() == b"as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.onnx"]


SHARED = Path(__file__).resolve().parents[3].parent / "shared/data/face-mask-detection"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real photos (../shared) are not here")
def test_the_answers_on_real_photos(detector: ExportedDetector) -> None:
    """99% of the faces agree as above; mAP50 and mAP50-95 differ by at most 0.003."""
    images = load_dataset(SHARED).images[::7]
    predictor, names = Predictor.default(), Bundle.load().meta.class_names
    found = [(predictor.detect(pixels), detector.detect(pixels)) for pixels in (read_image(i.path) for i in images)]
    faces, same = sum(len(one) for one, _ in found), sum(agreeing(*pair) for pair in found)
    assert faces > 300 and same >= 0.99 * faces
    scores = []
    for each in (predictor, detector):
        samples, _ = detect_samples(cast(Predictor, each), images, names, min_score=0.01)
        scores.append(score_every_class(samples, names, score_samples(samples, names)).mean.overall)
    assert abs(scores[0].ap_at_iou - scores[1].ap_at_iou) <= 0.003
    assert abs(scores[0].ap - scores[1].ap) <= 0.003
