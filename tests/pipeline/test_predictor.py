"""The one inference path: from pixels to Detections, alone and in batches."""

import numpy as np
import pytest
from PIL import Image

from pipeline.demo import portrait, tiled_photo
from pipeline.errors import PipelineError
from pipeline.predictor import Detections, Predictor
from stage2_classifier.cut import cut_crop, to_input


@pytest.fixture(scope="module")
def predictor():
    return Predictor.default()


@pytest.fixture(scope="module")
def tiles(predictor):
    return tiled_photo(predictor, portrait())


def test_bare_and_masked_faces_are_told_apart(predictor, tiles):
    found = predictor.detect(tiles)
    assert len(found) >= 2
    by_place = dict(zip((found.boxes[:, 0] // 512).astype(int), found.labels, strict=True))
    assert by_place[0] == "without_mask"
    assert by_place[1] == "with_mask"


def test_scores_are_face_score_times_class_probability(predictor, tiles):
    found = predictor.detect(tiles, min_score=0.05)
    assert found.scores == pytest.approx(found.face_scores * found.class_probs.max(axis=1))
    assert (np.diff(found.scores) <= 0).all()
    assert [found.class_names[i] for i in found.label_ids] == list(found.labels)


def test_min_score_is_a_floor_and_zero_keeps_every_candidate(predictor, tiles):
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
    expected = predictor.bundle.graph("classifier")(to_input(crop, meta.mean, meta.std))[0]
    assert predictor.classify(tiles, box[None]) == pytest.approx(expected, abs=1e-6)
    assert predictor.classify(tiles, np.zeros((0, 4), np.float32)).shape == (0, 3)


def test_reads_files_too(predictor, tiles, tmp_path):
    Image.fromarray(tiles).save(tmp_path / "tiles.png")
    assert predictor.detect(tmp_path / "tiles.png").boxes == pytest.approx(predictor.detect(tiles).boxes)


def test_refuses_values_out_of_range(predictor, tiles):
    with pytest.raises(PipelineError, match="min_score"):
        predictor.detect(tiles, min_score=1.5)
    with pytest.raises(PipelineError, match="min_face"):
        predictor.detect(tiles, min_face=0)


def test_detections_refuse_shapes_that_do_not_fit():
    ones = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        Detections(np.zeros((1, 4)), ones, np.ones((1, 2), np.float32), np.zeros((1, 5, 2), np.float32), ("a",))
    with pytest.raises(ValueError, match="sum to 1"):
        Detections(
            np.zeros((1, 4)), ones, np.full((1, 2), 0.9, np.float32), np.zeros((1, 5, 2), np.float32), ("a", "b")
        )
