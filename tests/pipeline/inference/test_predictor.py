"""The inference path with the default bundle: from pixels to Detections, alone and in batches."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.boxes import iou
from common.errors import BundleError, MediaError, UserError
from common.images import Photo, read_image
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.detect.demo.command import portrait, tiled_photo
from pipeline.inference import predictor as module
from pipeline.inference.bundle import GRAPHS, Bundle
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import TTA_SKIP_PROB, Predictor
from stage1_faces.faces import Faces
from stage2_classifier.cropping import cut_crop, to_input

REAL_PHOTOS = Path(__file__).resolve().parents[3].parent / "shared/data/face-mask-detection"


@pytest.fixture(scope="module")
def predictor():
    return Predictor.default()


@pytest.fixture(scope="module")
def tiles(predictor):
    return tiled_photo(predictor, portrait())


def test_bare_and_masked_faces_get_their_classes(predictor, tiles):
    found = predictor.detect(tiles)
    assert len(found) >= 2
    label_of_tile = dict(zip((found.boxes[:, 0] // 512).astype(int), found.labels, strict=True))
    assert label_of_tile[0] == "without_mask"
    assert label_of_tile[1] == "with_mask"


def test_scores_are_face_score_times_class_probability(predictor, tiles):
    found = predictor.detect(tiles, min_score=0.05)
    assert found.scores == pytest.approx(found.face_scores * found.class_probs.max(axis=1))
    assert (np.diff(found.scores) <= 0).all()
    assert [found.class_names[i] for i in found.label_ids] == list(found.labels)


def test_min_score_filters_and_zero_keeps_every_candidate(predictor, tiles):
    everything = predictor.detect(tiles, min_score=0)
    some = predictor.detect(tiles, min_score=0.3)
    assert len(everything) > len(some) > 0
    assert some.scores.min() >= 0.3
    kept = everything.scores >= 0.3
    assert everything.boxes[kept] == pytest.approx(some.boxes)


def test_a_batch_gives_what_single_calls_give(predictor, tiles):
    images = [tiles, np.zeros((30, 30, 3), np.uint8), tiles[:, :512]]
    for alone, together in zip([predictor.detect(i) for i in images], predictor.detect_batch(images), strict=True):
        assert alone.labels == together.labels
        assert together.boxes == pytest.approx(alone.boxes, abs=0.01)
        assert together.class_probs == pytest.approx(alone.class_probs, abs=1e-3)


def test_nothing_found_is_an_empty_result(predictor):
    found = predictor.detect(np.full((64, 64, 3), 128, np.uint8))
    assert (len(found), found.labels, found.scores.shape) == (0, (), (0,))
    assert predictor.detect_batch([]) == []


def test_classify_uses_the_training_crop_and_preprocessing(predictor, tiles):
    meta = predictor.bundle.meta
    box = np.array([160, 100, 360, 340], np.float32)
    crop = cut_crop(tiles, box, meta.margin, meta.input_size)[None]
    pixels = to_input(crop, meta.mean, meta.std)
    expected = predictor.bundle.graph("classifier")(pixels)[0]
    if meta.fusion.flip_tta and expected.max() < TTA_SKIP_PROB:
        expected = (expected + predictor.bundle.graph("classifier")(pixels[..., ::-1].copy())[0]) / 2
    expected = meta.fusion.class_probs(expected)
    assert predictor.classify(tiles, box[None]) == pytest.approx(expected, abs=1e-6)
    assert predictor.classify(tiles, np.zeros((0, 4), np.float32)).shape == (0, 3)


def test_reads_files_too(predictor, tiles, tmp_path):
    Image.fromarray(tiles).save(tmp_path / "tiles.png")
    assert predictor.detect(tmp_path / "tiles.png").boxes == pytest.approx(predictor.detect(tiles).boxes)


def test_refuses_values_out_of_range(predictor, tiles):
    with pytest.raises(UserError, match="min_score"):
        predictor.detect(tiles, min_score=1.5)
    with pytest.raises(UserError, match="min_face"):
        predictor.detect(tiles, min_face=0)
    with pytest.raises(UserError, match="min_face"):
        predictor.detect(tiles, min_face=float("inf"))
    with pytest.raises(UserError, match="min_face"):
        predictor.detect("never-read.jpg", min_face=-5)


def test_a_smallest_face_that_enlarges_a_photo_beyond_the_limit_is_refused(predictor, tmp_path):
    # A face of 1 px fills 8 px of the largest level: 1200x1300 px would become 100 million.
    pixels = np.zeros((1200, 1300, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    limit = (
        "would be enlarged to more than 89.5 million pixels for faces of 1 px; use a smallest face of 1.1 px or more"
    )
    for image, start in ((pixels, "the image "), (tmp_path / "a.png", f"{tmp_path / 'a.png'}: ")):
        with pytest.raises(UserError, match=re.escape(start + limit)):
            predictor.detect(image, min_face=1)
    with pytest.raises(UserError, match="the image would be enlarged"):
        predictor.detect_batch([pixels[:9], pixels], min_face=1)
    with (tmp_path / "a.png").open("rb") as file, pytest.raises(MediaError, match=r"b.png: .* smallest face of 5.7 px"):
        predictor.read_from(file, "b.png", min_face=5.6, max_pixels=3_120_000)
    with (tmp_path / "a.png").open("rb") as file:
        assert predictor.read_from(file, "b.png", min_face=5.7, max_pixels=3_120_000).size == (1300, 1200)


def test_a_classifier_weight_needs_face_logits(predictor):
    meta = predictor.bundle.meta
    graphs = {name: predictor.bundle.graph_bytes(name) for name in GRAPHS}
    lacking = Predictor(Bundle(predictor.bundle.path, replace(meta, fusion=ScoreFusion(classifier_weight=0.5)), graphs))
    lacking._classifier = lambda pixels: [np.full((len(pixels), len(meta.class_names)), 1 / 3, np.float32)]
    with pytest.raises(BundleError, match="needs face logits"):
        lacking.classify(np.zeros((40, 40, 3), np.uint8), np.float32([[5, 5, 30, 30]]))


def window_counts(image, min_score):
    """Check that `min_score` loses no face that reaches it; return O-Net's window counts with and without it."""
    windows = []
    results = []
    for floor in (min_score, 0.0):
        predictor = Predictor.default()
        net, seen = predictor._detector._onet, []
        predictor._detector._onet = lambda pixels, net=net, seen=seen: seen.append(len(pixels)) or net(pixels)
        found = predictor.detect(image, min_score=floor)
        results.append(found[found.scores >= min_score])
        windows.append(sum(seen))
    filtered, everything = results
    assert filtered.labels == everything.labels
    np.testing.assert_allclose(filtered.boxes, everything.boxes, atol=0.01)
    np.testing.assert_allclose(filtered.scores, everything.scores, atol=1e-4)
    return windows


@pytest.mark.parametrize("min_score", [0.3, 0.44, 0.8])
def test_min_score_saves_onet_windows(min_score):
    fewer, all_windows = window_counts(synthetic_photo(500, 400, 12), min_score)
    assert 0 < fewer < all_windows


@pytest.mark.slow
@pytest.mark.skipif(not REAL_PHOTOS.is_dir(), reason="needs the real photos next to the project")
def test_min_score_loses_no_face_on_real_photos():
    photos = sorted((REAL_PHOTOS / "images").iterdir())[::40]
    assert len(photos) >= 15
    windows = [window_counts(read_image(photo), 0.44) for photo in photos]
    fewer, all_windows = np.sum(windows, axis=0)
    assert fewer < 0.75 * all_windows


def least_face(predictor) -> float:
    """Return the side in pixels that a face needs to fill the windows of both stages."""
    meta = predictor.bundle.meta
    return max(40, meta.input_size / (1 + 2 * meta.margin))


@pytest.mark.parametrize(("share", "times"), [(None, 1), (1.99, 1), (2.01, 2), (4.25, 4)])
def test_a_huge_jpeg_is_read_as_small_as_its_smallest_face_admits(predictor, tmp_path, share, times):
    min_face = None if share is None else share * least_face(predictor)
    whole = synthetic_photo(1600, 1200, 2)
    Image.fromarray(whole).save(tmp_path / "a.jpg", quality=95)
    photo = predictor.read(tmp_path / "a.jpg", min_face)
    assert photo.size == (1600, 1200) and photo.pixels.shape == (1200 // times, 1600 // times, 3)
    found, expected = (
        predictor.detect(tmp_path / "a.jpg", min_face=min_face),
        predictor.detect(whole, min_face=min_face),
    )
    assert len(found) == len(expected) == 2 and found.labels == expected.labels
    order, other = found.boxes[:, 0].argsort(), expected.boxes[:, 0].argsort()
    assert (np.diag(iou(found.boxes[order], expected.boxes[other])) > 0.9).all()
    assert np.abs(found.landmarks[order] - expected.landmarks[other]).max() < 25  # faces of 400 px
    assert predictor.detect(photo, min_face=min_face).boxes == pytest.approx(found.boxes)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_jpeg_read_smaller_gives_the_boxes_of_the_upright_file(predictor, tmp_path, orientation):
    stored = np.ascontiguousarray(np.rot90(synthetic_photo(1200, 900, 2), {3: 2, 6: 1}[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=95, exif=exif)
    min_face = 2.01 * least_face(predictor)
    photo = predictor.read(tmp_path / "a.jpg", min_face)
    assert photo.size == (1200, 900) and photo.pixels.shape == (450, 600, 3)
    found = predictor.detect(tmp_path / "a.jpg", min_face=min_face)
    expected = predictor.detect(read_image(tmp_path / "a.jpg"), min_face=min_face)
    assert len(found) == len(expected) == 2
    assert (iou(found.boxes, expected.boxes).max(axis=1) > 0.9).all()


def test_the_bundles_min_face_holds_for_a_photo_read_smaller(predictor):
    search = replace(predictor.bundle.meta.search, min_face=100)
    graphs = {name: predictor.bundle.graph_bytes(name) for name in GRAPHS}
    own = Predictor(Bundle(predictor.bundle.path, replace(predictor.bundle.meta, search=search), graphs))
    calls = []
    own._detector.detect_batch = lambda images, *, min_face, min_score: calls.append(min_face) or [Faces.empty()]
    own.detect(Photo(np.zeros((100, 200, 3), np.uint8), (400, 200)))
    own.detect(Photo(np.zeros((100, 200, 3), np.uint8), (200, 100)))
    assert calls == [50, None]


def test_default_settings_read_only_huge_photos_smaller(predictor, monkeypatch):
    received = {}
    monkeypatch.setattr(module, "read_photo", lambda path, shrink: received.update(shrink=shrink))
    predictor.read("any.jpg")
    least = least_face(predictor)  # the smallest face looked for is a hundredth of the longer side
    assert received["shrink"]((4000, 3000)) == pytest.approx(40 / least)
    assert received["shrink"]((3000, 8000)) == pytest.approx(80 / least)
    assert received["shrink"]((400, 300)) < 1


def test_rescaled_detections(predictor, tiles):
    found = predictor.detect(tiles)
    stretched = found.rescale(2, 3)
    assert stretched.boxes == pytest.approx(found.boxes * [2, 3, 2, 3])
    assert stretched.landmarks == pytest.approx(found.landmarks * [2, 3])
    assert (
        stretched.labels == found.labels and (stretched.scores == found.scores).all() and found.rescale(1, 1) is found
    )
