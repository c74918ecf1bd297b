"""The one inference path: from pixels to Detections, alone and in batches."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common.boxes import iou
from common.errors import BundleError, UserError
from common.images import Photo, read_image
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.detect.demo import portrait, tiled_photo
from pipeline.inference import predictor as module
from pipeline.inference.bundle import GRAPHS, Bundle
from pipeline.inference.detections import Detections
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import TTA_SKIP_PROB, Predictor
from stage1_faces.faces import Faces
from stage2_classifier.cropping import cut_crop, to_input

REAL = Path(__file__).resolve().parents[3].parent / "shared/data/face-mask-detection"


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
    pixels = to_input(crop, meta.mean, meta.std)
    expected = predictor.bundle.graph("classifier")(pixels)[0]
    if meta.judge.mirrored and expected.max() < TTA_SKIP_PROB:
        expected = (expected + predictor.bundle.graph("classifier")(pixels[..., ::-1].copy())[0]) / 2
    expected = meta.judge.class_probs(expected)
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
        predictor.detect("never-read.jpg", min_face=-5)


# A made bundle: crops of 8 px without margin, and a classifier that reads its outputs off a crop's channels.
SIZE = 8
LEFT, RIGHT = slice(0, SIZE // 2), slice(SIZE // 2, SIZE)


def made_classifier(pixels, outputs=3):
    """Of pixels in 0..1: P(second class) is red, the log odds of a face 8 * (green - 0.5), the box moves by blue.

    Red and green are read off the left half alone, so that a mirrored crop is judged by the other half. A box whose
    crop is bluer on the right moves to the right by as much of its side, and grows by a tenth in height.
    """
    half = pixels[..., LEFT].mean(axis=(2, 3))
    red, green = half[:, 0], half[:, 1]
    to_the_right = pixels[:, 2, :, RIGHT].mean(axis=(1, 2)) - pixels[:, 2, :, LEFT].mean(axis=(1, 2))
    grown = np.full_like(red, np.log(1.1))
    numbers = np.stack([to_the_right, 0 * red, 0 * red, grown], axis=1)
    return [np.stack([1 - red, red], axis=1), 8 * (green - 0.5), numbers][:outputs]


class Told:
    """A detector that finds what it is told, image after image, and notes what it is asked."""

    def __init__(self, *found):
        self.found, self.asked = found, []

    def detect_batch(self, images, *, min_face=None, min_score=None):
        self.asked.append((min_face, min_score))
        kept = []
        for faces in self.found[: len(images)]:
            some = faces.scores >= min_score
            kept.append(Faces(faces.boxes[some], faces.scores[some], faces.landmarks[some]))
        return kept


def faces(*found):
    """Faces of (score, left edge, ...): squares of 8 px in the first row."""
    boxes = np.float32([[x, 0, x + SIZE, SIZE] for _, x in found]).reshape(-1, 4)
    points = np.repeat(boxes[:, None, :2], 5, axis=1)
    return Faces(boxes, np.float32([score for score, _ in found]), points)


def image_of(*squares, height=SIZE):
    """Squares of 8 px side by side: each the levels of its left and its right half."""
    image = np.zeros((height, SIZE * len(squares), 3), np.uint8)
    for k, (left, right) in enumerate(squares):
        image[:, SIZE * k : SIZE * k + SIZE // 2] = left
        image[:, SIZE * k + SIZE // 2 : SIZE * (k + 1)] = right
    return image


def made(judge, *found, outputs=3, score_threshold=0.25):
    """A predictor of two classes with `judge`, that finds what it is told."""
    meta = replace(
        Bundle.load().meta,
        class_names=("a", "b"),
        input_size=SIZE,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        margin=0.0,
        score_threshold=score_threshold,
        fusion=judge,
    )
    bundle = SimpleNamespace(
        meta=meta, graph=lambda name, threads, device: lambda pixels: made_classifier(pixels, outputs)
    )
    return Predictor(bundle, detector=Told(*found))


def odds(p):
    return np.log(p / (1 - p))


def chance(x):
    return 1 / (1 + np.exp(-x))


PLAIN = ((51, 255, 0), (51, 255, 0))  # P(b) 0.2, log odds 4
OTHER = ((204, 0, 0), (204, 0, 0))  # P(b) 0.8, log odds -4


def test_a_passive_judge_leaves_stage_1_its_scores_and_boxes():
    for outputs in (1, 2, 3):
        found = made(ScoreFusion(), faces((0.9, 0), (0.6, 8)), outputs=outputs).detect(image_of(PLAIN, OTHER))
        assert found.boxes.tolist() == [[0, 0, 8, 8], [8, 0, 16, 8]]
        assert found.face_scores == pytest.approx([0.9, 0.6])
        assert found.class_probs == pytest.approx(np.float32([[0.8, 0.2], [0.2, 0.8]]), abs=1e-6)
        assert found.scores == pytest.approx([0.72, 0.48], abs=1e-6)


def test_face_scores_and_the_order_are_the_judges():
    judge = ScoreFusion(detector_weight=0.5, classifier_weight=0.25, intercept=-0.5)
    predictor = made(judge, faces((0.9, 8), (0.6, 0)), score_threshold=0)
    found = predictor.detect(image_of(PLAIN, OTHER))
    # The second, of which stage 2 is sure, comes first now; landmarks and classes go with it.
    expected = [chance(0.5 * odds(0.6) + 0.25 * 4 - 0.5), chance(0.5 * odds(0.9) - 0.25 * 4 - 0.5)]
    assert found.face_scores == pytest.approx(expected, rel=1e-5)
    assert found.scores == pytest.approx([0.8 * score for score in expected], rel=1e-5)
    assert found.boxes[:, 0].tolist() == found.landmarks[:, 0, 0].tolist() == [0, 8]
    assert found.labels == ("a", "b")


def test_class_probabilities_are_at_the_judges_temperature():
    predictor = made(ScoreFusion(temperature=0.5), faces((0.9, 0)))
    image = image_of(PLAIN)
    squared = [0.64 / 0.68, 0.04 / 0.68]
    assert predictor.detect(image).class_probs[0] == pytest.approx(squared, rel=1e-5)
    assert predictor.classify(image, np.float32([[0, 0, 8, 8]]))[0] == pytest.approx(squared, rel=1e-5)
    # What is calibrated is the bundle's; the graph's own word goes to calibration.
    ((probs, verdicts, numbers),) = predictor.run_classifier([image], [np.float32([[0, 0, 8, 8]])])
    assert probs[0] == pytest.approx([0.8, 0.2], abs=1e-6)
    assert verdicts == pytest.approx([4]) and numbers[0] == pytest.approx([0, 0, 0, np.log(1.1)], abs=1e-6)


def test_boxes_move_to_where_stage_2_sees_the_face():
    image = image_of(PLAIN, ((51, 255, 0), (51, 255, 255)), PLAIN, height=SIZE + 2)
    whole = made(ScoreFusion(box_blend=1), faces((0.9, 8))).detect(image)
    assert whole.boxes[0] == pytest.approx([16, 0, 24, 8.4], abs=1e-4)  # a side to the right, clipped at the top
    half = made(ScoreFusion(box_blend=0.5), faces((0.9, 8))).detect(image)
    assert half.boxes[0] == pytest.approx([12, 0, 20, 8.2], abs=1e-4)
    assert half.landmarks[0, 0].tolist() == [8, 0]  # those are stage 1's
    assert made(ScoreFusion(box_blend=1), faces((0.9, 8)), outputs=2).detect(image).boxes[0].tolist() == [8, 0, 16, 8]


def test_mirrored_crops_are_averaged_with_the_box_the_other_way():
    judge = ScoreFusion(classifier_weight=0.25, box_blend=1, flip_tta=True)
    square = ((51, 255, 0), (153, 51, 102))  # its halves differ in all channels
    found = made(judge, faces((0.5, 8)), score_threshold=0).detect(image_of(PLAIN, square, PLAIN))
    # P(b) 0.2 and 0.6; log odds 4 and -2.4; blue is more by 0.4 on the right, both ways round.
    assert found.class_probs[0] == pytest.approx([0.6, 0.4], abs=1e-5)
    assert found.face_scores == pytest.approx([chance(0.25 * 0.8)], rel=1e-5)
    assert found.boxes[0, [0, 2]] == pytest.approx([8 + 0.4 * 8, 16 + 0.4 * 8], abs=1e-4)
    # Turned round, the same but for the side to which the box moves.
    turned = made(judge, faces((0.5, 8)), score_threshold=0).detect(image_of(PLAIN, square[::-1], PLAIN))
    assert turned.class_probs == pytest.approx(found.class_probs) and turned.face_scores == found.face_scores
    assert turned.boxes[0, 0] == pytest.approx(8 - 0.4 * 8, abs=1e-4)
    (one_way,) = (
        made(replace(judge, flip_tta=False), faces((0.5, 8)), score_threshold=0)
        .detect(image_of(PLAIN, square, PLAIN))
        .class_probs
    )
    assert one_way == pytest.approx([0.8, 0.2], abs=1e-5)


def test_a_certain_crop_is_not_judged_in_its_mirror_image():
    judge = ScoreFusion(flip_tta=True)
    # P(b) 0.98 on the left half and 0.6 on the right; then 0.96.
    certain, doubtful = ((250, 255, 0), (153, 51, 0)), ((245, 255, 0), (153, 51, 0))
    image = image_of(certain, doubtful, certain)
    found = made(judge, faces((0.9, 0), (0.8, 8), (0.7, 16)), score_threshold=0).detect(image)
    order = found.boxes[:, 0].argsort()
    assert found.class_probs[order, 1] == pytest.approx([250 / 255, (245 + 153) / 255 / 2, 250 / 255], abs=1e-4)


ACTIVE = ScoreFusion(
    detector_weight=0.5, classifier_weight=0.25, intercept=-0.5, min_detector_score=0.2, max_face_logit=4
)


def test_stage_1_is_asked_for_all_that_may_reach_the_score():
    image = image_of(PLAIN, OTHER)
    for judge, min_score, expected in (
        (ScoreFusion(), None, 0.25),
        (ScoreFusion(min_detector_score=0.2), 0.1, 0.1),
        (ACTIVE, 0.9, ACTIVE.min_detector_score_for(0.9)),
        (ACTIVE, None, 0.2),  # the floor
        (ACTIVE, 0, 0.2),
    ):
        predictor = made(judge, faces((0.9, 0)))
        predictor.detect(image, min_score=min_score, min_face=7)
        assert predictor._detector.asked == [(7, expected)]
    assert ACTIVE.min_detector_score_for(0.9) > 0.2


def test_min_score_filters_what_the_judge_says():
    # By their places, stage 2 is for the first half and against the others.
    found = [(0.97, 0), (0.9, 16), (0.6, 8), (0.3, 24), (0.1, 0)]
    image = image_of(PLAIN, PLAIN, OTHER, OTHER)
    everything = made(ACTIVE, faces(*found)).detect(image, min_score=0)
    assert len(everything) == 4  # the last is below the judge's floor
    assert (np.diff(everything.scores) <= 0).all()
    for floor in (0.05, 0.2, 0.3, 0.5, 0.9):
        some = made(ACTIVE, faces(*found)).detect(image, min_score=floor)
        kept = everything.scores >= floor
        assert some.boxes.tolist() == everything.boxes[kept].tolist()
        assert some.scores.tolist() == everything.scores[kept].tolist()
    by_default = made(ACTIVE, faces(*found), score_threshold=0.3).detect(image)
    assert by_default.scores.tolist() == everything.scores[everything.scores >= 0.3].tolist()


def test_a_batch_is_judged_photo_by_photo(monkeypatch):
    images = [image_of(PLAIN, OTHER), image_of(OTHER), image_of(PLAIN, ((51, 255, 0), (51, 255, 255)), PLAIN)]
    found = [faces((0.9, 0), (0.8, 8)), Faces.empty(), faces((0.7, 8))]
    judge = replace(ACTIVE, box_blend=0.5, flip_tta=True)
    alone = [made(judge, one).detect(image, min_score=0) for one, image in zip(found, images, strict=True)]
    assert [len(one) for one in alone] == [2, 0, 1]
    for batch in (64, 2, 1):  # crops of several photos in a call, and photos over several
        monkeypatch.setattr(module, "CLASSIFIER_BATCH", batch)
        together = made(judge, *found).detect_batch(images, min_score=0)
        for one, other in zip(alone, together, strict=True):
            assert other.boxes == pytest.approx(one.boxes) and other.scores == pytest.approx(one.scores)
            assert other.class_probs == pytest.approx(one.class_probs)


def test_nothing_to_judge():
    predictor = made(ACTIVE, Faces.empty())
    assert len(predictor.detect(image_of(PLAIN))) == 0
    ((probs, verdicts, numbers),) = predictor.run_classifier([image_of(PLAIN)], [np.zeros((0, 4), np.float32)])
    assert probs.shape == (0, 2) and verdicts is None and numbers is None


def test_unsure_is_a_margin_between_the_two_best_classes():
    # Gaps of 0.6, 0.2 and 0.
    image = image_of(PLAIN, ((102, 255, 0),) * 2, ((127.5, 255, 0),) * 2)
    found = made(ScoreFusion(unsure_margin=0.3), faces((0.9, 0), (0.8, 8), (0.7, 16))).detect(image)
    assert found.unsure.tolist() == [False, True, True]
    assert found.labels[:2] == ("a", "a")
    assert found[1:].unsure.tolist() == [True, True] and found[[0, 2]].unsure_margin == 0.3
    none = made(ScoreFusion(), faces((0.9, 0), (0.8, 8), (0.7, 16))).detect(image)
    assert not none.unsure.any()
    assert Detections.empty(("a", "b")).unsure.shape == (0,)
    three = Detections(
        found.boxes[:2], found.face_scores[:2], np.float32([[0.3, 0.25, 0.45], [0.4, 0.26, 0.34]]),
        found.landmarks[:2], ("a", "b", "c"), 0.1,
    )  # fmt: skip
    assert three.unsure.tolist() == [False, True]  # by 0.15 and 0.06, whatever the third class has
    alone = Detections(found.boxes, found.face_scores, np.ones((3, 1), np.float32), found.landmarks, ("a",), 0.9)
    assert not alone.unsure.any()


def test_detections_refuse_shapes_that_do_not_fit():
    ones = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        Detections(np.zeros((1, 4)), ones, np.ones((1, 2), np.float32), np.zeros((1, 5, 2), np.float32), ("a",))
    with pytest.raises(ValueError, match="sum to 1"):
        Detections(
            np.zeros((1, 4)), ones, np.full((1, 2), 0.9, np.float32), np.zeros((1, 5, 2), np.float32), ("a", "b")
        )


def test_a_judge_that_weighs_verdicts_needs_a_graph_that_gives_them(predictor):
    meta = predictor.bundle.meta
    graphs = {name: predictor.bundle.graph_bytes(name) for name in GRAPHS}
    lacking = Predictor(Bundle(predictor.bundle.path, replace(meta, fusion=ScoreFusion(classifier_weight=0.5)), graphs))
    lacking._classifier = lambda pixels: [np.full((len(pixels), len(meta.class_names)), 1 / 3, np.float32)]
    with pytest.raises(BundleError, match="verdicts that its graph lacks"):
        lacking.classify(np.zeros((40, 40, 3), np.uint8), np.float32([[5, 5, 30, 30]]))


def same_when_asked_for_more(image, min_score):
    """Whether the faces at `min_score` are those of all candidates that reach it; O-Net's windows both ways."""
    windows = []
    results = []
    for floor in (min_score, 0.0):
        predictor = Predictor.default()
        net, seen = predictor._detector._onet, []
        predictor._detector._onet = lambda pixels, net=net, seen=seen: seen.append(len(pixels)) or net(pixels)
        found = predictor.detect(image, min_score=floor)
        results.append(found[found.scores >= min_score])
        windows.append(sum(seen))
    asked, everything = results
    assert asked.labels == everything.labels
    np.testing.assert_allclose(asked.boxes, everything.boxes, atol=0.01)
    np.testing.assert_allclose(asked.scores, everything.scores, atol=1e-4)
    return windows


@pytest.mark.parametrize("min_score", [0.3, 0.44, 0.8])
def test_what_cannot_reach_the_score_wanted_is_not_looked_at_again(min_score):
    few, all_of_them = same_when_asked_for_more(synthetic_photo(500, 400, 12), min_score)
    assert 0 < few < all_of_them


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real photos beside the project")
def test_nothing_is_lost_by_it_on_real_photos():
    photos = sorted((REAL / "images").iterdir())[::40]
    assert len(photos) >= 15
    windows = [same_when_asked_for_more(read_image(photo), 0.44) for photo in photos]
    few, all_of_them = np.sum(windows, axis=0)
    assert few < 0.75 * all_of_them


@pytest.mark.parametrize(("min_face", "times"), [(None, 1), (79, 1), (80, 2), (170, 4)])
def test_a_huge_jpeg_is_read_as_small_as_its_smallest_face_admits(predictor, tmp_path, min_face, times):
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
    photo = predictor.read(tmp_path / "a.jpg", 80)
    assert photo.size == (1200, 900) and photo.pixels.shape == (450, 600, 3)
    found = predictor.detect(tmp_path / "a.jpg", min_face=80)
    expected = predictor.detect(read_image(tmp_path / "a.jpg"), min_face=80)
    assert len(found) == len(expected) == 2
    assert (iou(found.boxes, expected.boxes).max(axis=1) > 0.9).all()


def test_the_bundles_own_smallest_face_holds_for_a_photo_read_smaller(predictor):
    search = replace(predictor.bundle.meta.search, min_face=100)
    graphs = {name: predictor.bundle.graph_bytes(name) for name in GRAPHS}
    own = Predictor(Bundle(predictor.bundle.path, replace(predictor.bundle.meta, search=search), graphs))
    asked = []
    own._detector.detect_batch = lambda images, *, min_face, min_score: asked.append(min_face) or [faces()]
    own.detect(Photo(np.zeros((100, 200, 3), np.uint8), (400, 200)))
    own.detect(Photo(np.zeros((100, 200, 3), np.uint8), (200, 100)))
    assert asked == [50, None]


def test_a_default_search_reads_only_the_hugest_photos_smaller(predictor, monkeypatch):
    asked = {}
    monkeypatch.setattr(module, "read_photo", lambda path, shrink: asked.update(shrink=shrink))
    predictor.read("any.jpg")
    assert asked["shrink"]((4000, 3000)) == pytest.approx(1) and asked["shrink"]((3000, 8000)) == pytest.approx(2)
    assert asked["shrink"]((400, 300)) < 1


def test_scaled_detections(predictor, tiles):
    found = predictor.detect(tiles)
    twice = found.scaled(2, 3)
    assert twice.boxes == pytest.approx(found.boxes * [2, 3, 2, 3])
    assert twice.landmarks == pytest.approx(found.landmarks * [2, 3])
    assert twice.labels == found.labels and (twice.scores == found.scores).all() and found.scaled(1, 1) is found
