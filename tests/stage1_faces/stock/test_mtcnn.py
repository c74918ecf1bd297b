"""MtcnnDetector against facenet-pytorch on photos, and on inputs that have no face, few pixels or many windows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.boxes import clip, iou
from stage1_faces.faces import Faces
from stage1_faces.stock import mtcnn
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector, pyramid_scales

PHOTOS = Path(__file__).resolve().parents[3].parent / "shared/data/face-mask-detection/images"


@pytest.fixture(scope="module")
def stock(stock_nets):
    return MtcnnDetector(**stock_nets)


def facenet_faces(mtcnn, image):
    """Return facenet-pytorch's faces as 0-based boxes with exclusive ends, inside the image."""
    boxes, scores, landmarks = mtcnn.detect(Image.fromarray(image), landmarks=True)
    if boxes is None:
        return Faces.empty()
    size = (image.shape[1], image.shape[0])
    found = clip(np.asarray(boxes, np.float32) - np.array([1, 1, 0, 0], np.float32), size)
    return Faces(found, np.asarray(scores, np.float32), np.asarray(landmarks, np.float32))


def agreement(expected, actual):
    """Return how many expected faces were found at IoU 0.9, and their worst landmark distance, px."""
    if not len(expected) or not len(actual):
        return 0, 0.0
    overlaps = iou(expected.boxes, actual.boxes)
    matched = overlaps.max(axis=1) >= 0.9
    partner = overlaps.argmax(axis=1)[matched]
    distance = np.abs(expected.landmarks[matched] - actual.landmarks[partner])
    return int(matched.sum()), float(distance.max(initial=0))


@pytest.mark.slow
def test_same_face_as_facenet_pytorch_on_a_portrait(stock, grace):
    from facenet_pytorch import MTCNN

    expected = facenet_faces(MTCNN(keep_all=True), grace)
    actual = stock.detect(grace)
    assert len(expected) == len(actual) == 1
    assert actual.boxes == pytest.approx(expected.boxes, abs=0.01)
    assert actual.scores == pytest.approx(expected.scores, abs=1e-4)
    assert actual.landmarks == pytest.approx(expected.landmarks, abs=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the real photos (../shared) are not here")
@pytest.mark.parametrize("min_face", [20, 12])
def test_same_faces_as_facenet_pytorch_on_real_photos(stock_nets, min_face):
    # Both run the same arithmetic. Only last-bit roundings of ONNX Runtime and torch may differ, which can move a
    # window over a threshold.
    from facenet_pytorch import MTCNN

    reference = MTCNN(keep_all=True, min_face_size=min_face)
    ours = MtcnnDetector(**stock_nets, config=MtcnnConfig(min_face=min_face))
    files = sorted(PHOTOS.iterdir())[:: 9 if min_face == 20 else 30]
    total = same = surplus = 0
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB"))
        expected, actual = facenet_faces(reference, image), ours.detect(image)
        matched, distance = agreement(expected, actual)
        total, same, surplus = total + len(expected), same + matched, surplus + len(actual) - matched
        assert distance < 0.5
    assert total > 50
    assert same >= 0.98 * total
    assert surplus <= 0.02 * total


def test_a_batch_of_mixed_sizes_gives_what_single_calls_give(stock, grace):
    images = [grace, grace[:300, :400], np.zeros((40, 200, 3), np.uint8), grace[::2, ::2], grace]
    for alone, together in zip([stock.detect(i) for i in images], stock.detect_batch(images), strict=True):
        assert len(alone) == len(together)
        assert together.boxes == pytest.approx(alone.boxes, abs=0.01)
        assert together.scores == pytest.approx(alone.scores, abs=1e-4)


def test_tiles_give_the_cells_of_the_whole(stock_nets, grace, monkeypatch):
    whole = MtcnnDetector(**stock_nets).detect(grace, min_score=0)
    for cells in (40, 61):
        monkeypatch.setattr(mtcnn, "MAX_TILE", cells)
        tiled = MtcnnDetector(**stock_nets).detect(grace, min_score=0)
        assert len(whole) == len(tiled) > 1
        assert tiled.boxes == pytest.approx(whole.boxes, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (11, 11), (12, 12), (20, 20), (21, 19), (64, 64)])
def test_images_without_a_face(stock, shape):
    faces = stock.detect(np.full((*shape, 3), 128, np.uint8))
    assert len(faces) == 0
    assert faces.boxes.shape == (0, 4) and faces.landmarks.shape == (0, 5, 2)


def test_no_images(stock):
    assert stock.detect_batch([]) == []


@pytest.mark.slow
def test_a_window_for_every_cell():
    # Nets that pass everything: more than 32,768 windows reach the last net, where facenet-pytorch's NMS overflows.
    def everything(*shapes):
        def net(pixels):
            n = len(pixels)
            return [np.full((n, *shape), value, np.float32) for shape, value in shapes]

        return net

    def pnet(pixels):
        n, _, height, width = pixels.shape
        cells = (-(-(height - 2) // 2) - 4, -(-(width - 2) // 2) - 4)
        return [np.ones((n, *cells), np.float32), np.zeros((n, 4, *cells), np.float32)]

    config = MtcnnConfig(min_face=12, factor=0.01, nms_level=1, nms_pnet=1, nms_rnet=1, nms_onet=1)
    onet = everything(((), 0.9), ((4,), 0), ((5, 2), 0.5))
    found = MtcnnDetector(pnet, everything(((), 0.9), ((4,), 0)), onet, config)
    image = np.zeros((380, 380, 3), np.uint8)
    assert len(found.detect(image)) > 32_768


def test_windows_outside_the_image_keep_rows_aligned():
    # P-Net's offsets throw every second window far out; the rest must keep their own scores.
    def pnet(pixels):
        n, _, height, width = pixels.shape
        cells = (-(-(height - 2) // 2) - 4, -(-(width - 2) // 2) - 4)
        offsets = np.zeros((n, 4, *cells), np.float32)
        offsets[..., ::2] = 100
        return [np.ones((n, *cells), np.float32), offsets]

    seen = []

    def rnet(pixels):
        seen.extend(pixels.mean(axis=(1, 2, 3)))
        return [np.ones(len(pixels), np.float32), np.zeros((len(pixels), 4), np.float32)]

    def onet(pixels):
        scores = pixels.mean(axis=(1, 2, 3)) / 255
        return [scores, np.zeros((len(pixels), 4), np.float32), np.full((len(pixels), 5, 2), 0.5, np.float32)]

    image = np.tile(np.arange(0, 120, dtype=np.uint8)[None, :, None] * 2, (24, 1, 3))
    config = MtcnnConfig(min_face=12, factor=0.01, nms_level=1, nms_pnet=1, nms_rnet=1, nms_onet=1)
    faces = MtcnnDetector(pnet, rnet, onet, config).detect(image, min_score=0)
    assert 0 < len(faces) == len(seen)
    centre = faces.boxes[:, [0, 2]].mean(axis=1)
    # The score is the window's mean brightness, which grows by 2 per column.
    assert faces.scores * 255 == pytest.approx((centre - 0.5) * 2, abs=3)


def test_min_face_and_min_score_replace_the_configured_ones(stock, grace):
    assert len(stock.detect(grace, min_face=400)) == 0
    everything = stock.detect(grace, min_score=0)
    assert len(everything) > 1
    assert everything.scores.min() < 0.7
    assert (np.diff(everything.scores) <= 0).all()


def test_pyramid_fits_the_smallest_face():
    config = MtcnnConfig(min_face=24, factor=0.5)
    assert pyramid_scales(100, 200, config) == [0.5, 0.25, 0.125]
    assert pyramid_scales(23, 200, config) == []


@pytest.mark.parametrize(
    "image",
    [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((9, 9, 3))],
)
def test_refuses_what_is_no_rgb_image(stock, image):
    with pytest.raises(ValueError, match="uint8"):
        stock.detect(image)


@pytest.mark.parametrize("wrong", [{"min_face": 0}, {"factor": 1}, {"pnet_threshold": 1.5}, {"nms_onet": -1}])
def test_config_refuses_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MtcnnConfig(**wrong)
