"""The predictor with score fusion, on a fixed bundle whose outputs can be computed by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.inference import predictor as module
from pipeline.inference.bundle import Bundle
from pipeline.inference.detections import Detections
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import Predictor
from stage1_faces.faces import Faces

# A fixed bundle: crops of 8 px without margin, and a classifier that computes its outputs from a crop's channels.
SIZE = 8
LEFT, RIGHT = slice(0, SIZE // 2), slice(SIZE // 2, SIZE)


def channel_classifier(pixels, outputs=3):
    """Return outputs for pixels in 0..1: P(second class) is red, the face logit 8 * (green - 0.5), blue moves the box.

    Red and green come from the left half alone, so a mirrored crop is classified by its other half. A box whose crop
    is bluer on the right moves right by that share of its side. Each box grows by a tenth in height.
    """
    half = pixels[..., LEFT].mean(axis=(2, 3))
    red, green = half[:, 0], half[:, 1]
    shift = pixels[:, 2, :, RIGHT].mean(axis=(1, 2)) - pixels[:, 2, :, LEFT].mean(axis=(1, 2))
    log_growth = np.full_like(red, np.log(1.1))
    box_deltas = np.stack([shift, 0 * red, 0 * red, log_growth], axis=1)
    return [np.stack([1 - red, red], axis=1), 8 * (green - 0.5), box_deltas][:outputs]


class ScriptedDetector:
    """A detector that returns scripted faces, image after image, and records its arguments."""

    def __init__(self, *found):
        self.found, self.calls = found, []

    def detect_batch(self, images, *, min_face=None, min_score=None):
        self.calls.append((min_face, min_score))
        kept = []
        for faces in self.found[: len(images)]:
            some = faces.scores >= min_score
            kept.append(Faces(faces.boxes[some], faces.scores[some], faces.landmarks[some]))
        return kept


def squares_at(*found):
    """Return one face per (score, left edge): squares of 8 px in the first row."""
    boxes = np.float32([[x, 0, x + SIZE, SIZE] for _, x in found]).reshape(-1, 4)
    points = np.repeat(boxes[:, None, :2], 5, axis=1)
    return Faces(boxes, np.float32([score for score, _ in found]), points)


def image_of(*squares, height=SIZE):
    """Return squares of 8 px in one row, each given by the RGB levels of its two halves."""
    image = np.zeros((height, SIZE * len(squares), 3), np.uint8)
    for k, (left, right) in enumerate(squares):
        image[:, SIZE * k : SIZE * k + SIZE // 2] = left
        image[:, SIZE * k + SIZE // 2 : SIZE * (k + 1)] = right
    return image


def fixed_predictor(fusion, *found, outputs=3, score_threshold=0.25):
    """Return a predictor of two classes with the given fusion and a scripted detector."""
    meta = replace(
        Bundle.load().meta,
        class_names=("a", "b"),
        input_size=SIZE,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        margin=0.0,
        score_threshold=score_threshold,
        fusion=fusion,
    )
    bundle = SimpleNamespace(
        meta=meta, graph=lambda name, threads, device: lambda pixels: channel_classifier(pixels, outputs)
    )
    return Predictor(bundle, detector=ScriptedDetector(*found))


def logit(p):
    return np.log(p / (1 - p))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FACE = ((51, 255, 0), (51, 255, 0))  # P(b) 0.2, face logit 4
NO_FACE = ((204, 0, 0), (204, 0, 0))  # P(b) 0.8, face logit -4


def test_default_fusion_keeps_scores_and_boxes_of_stage_1():
    for outputs in (1, 2, 3):
        found = fixed_predictor(ScoreFusion(), squares_at((0.9, 0), (0.6, 8)), outputs=outputs).detect(
            image_of(FACE, NO_FACE)
        )
        assert found.boxes.tolist() == [[0, 0, 8, 8], [8, 0, 16, 8]]
        assert found.face_scores == pytest.approx([0.9, 0.6])
        assert found.class_probs == pytest.approx(np.float32([[0.8, 0.2], [0.2, 0.8]]), abs=1e-6)
        assert found.scores == pytest.approx([0.72, 0.48], abs=1e-6)


def test_fusion_changes_face_scores_and_their_order():
    fusion = ScoreFusion(detector_weight=0.5, classifier_weight=0.25, intercept=-0.5)
    predictor = fixed_predictor(fusion, squares_at((0.9, 8), (0.6, 0)), score_threshold=0)
    found = predictor.detect(image_of(FACE, NO_FACE))
    # The second face, which stage 2 supports, is first now, with its landmarks and class.
    expected = [sigmoid(0.5 * logit(0.6) + 0.25 * 4 - 0.5), sigmoid(0.5 * logit(0.9) - 0.25 * 4 - 0.5)]
    assert found.face_scores == pytest.approx(expected, rel=1e-5)
    assert found.scores == pytest.approx([0.8 * score for score in expected], rel=1e-5)
    assert found.boxes[:, 0].tolist() == found.landmarks[:, 0, 0].tolist() == [0, 8]
    assert found.labels == ("a", "b")


def test_class_probabilities_are_at_the_fusions_temperature():
    predictor = fixed_predictor(ScoreFusion(temperature=0.5), squares_at((0.9, 0)))
    image = image_of(FACE)
    squared = [0.64 / 0.68, 0.04 / 0.68]
    assert predictor.detect(image).class_probs[0] == pytest.approx(squared, rel=1e-5)
    assert predictor.classify(image, np.float32([[0, 0, 8, 8]]))[0] == pytest.approx(squared, rel=1e-5)
    # run_classifier returns the graph's outputs before calibration.
    ((probs, face_logits, box_deltas),) = predictor.run_classifier([image], [np.float32([[0, 0, 8, 8]])])
    assert probs[0] == pytest.approx([0.8, 0.2], abs=1e-6)
    assert face_logits == pytest.approx([4]) and box_deltas[0] == pytest.approx([0, 0, 0, np.log(1.1)], abs=1e-6)


def test_boxes_move_to_the_classifiers_box():
    image = image_of(FACE, ((51, 255, 0), (51, 255, 255)), FACE, height=SIZE + 2)
    whole = fixed_predictor(ScoreFusion(box_blend=1), squares_at((0.9, 8))).detect(image)
    assert whole.boxes[0] == pytest.approx([16, 0, 24, 8.4], abs=1e-4)  # one side to the right, clipped at the top
    half = fixed_predictor(ScoreFusion(box_blend=0.5), squares_at((0.9, 8))).detect(image)
    assert half.boxes[0] == pytest.approx([12, 0, 20, 8.2], abs=1e-4)
    assert half.landmarks[0, 0].tolist() == [8, 0]  # landmarks are stage 1's
    assert fixed_predictor(ScoreFusion(box_blend=1), squares_at((0.9, 8)), outputs=2).detect(image).boxes[
        0
    ].tolist() == [8, 0, 16, 8]


def test_a_second_pass_sees_the_face_at_its_moved_box():
    # The box moves right by the crop's blue on the right: one side, onto the third square, which is class b.
    other = ((204, 230, 0), (204, 230, 0))  # P(b) 0.8, face logit 3.2
    image = image_of(FACE, ((51, 255, 0), (51, 255, 255)), other, height=SIZE + 2)
    fusion = ScoreFusion(box_blend=1, classifier_weight=0.25, box_passes=2)
    found = fixed_predictor(fusion, squares_at((0.9, 8))).detect(image)
    assert found.boxes[0, [0, 2]] == pytest.approx([16, 24], abs=0.5)
    assert found.class_probs[0] == pytest.approx([0.2, 0.8], abs=0.1)
    first = fixed_predictor(replace(fusion, box_passes=1), squares_at((0.9, 8))).detect(image)
    assert first.class_probs[0] == pytest.approx([0.8, 0.2], abs=1e-5)
    assert found.face_scores[0] < first.face_scores[0]  # the second pass's face logit counts
    # A face below the wanted score gets no second pass, and keeps its box and outputs.
    predictor = fixed_predictor(fusion, squares_at((0.9, 8), (0.01, 0)), score_threshold=0.25)
    seen = []
    predictor.run_classifier = lambda images, boxes, run=predictor.run_classifier: (
        seen.append([len(b) for b in boxes]) or run(images, boxes)
    )
    assert len(predictor.detect(image)) == 1 and seen[-1] == [1]
    seen.clear()
    assert len(predictor.detect(image, min_score=0)) == 2 and seen[-1] == [2]
    # Without a classifier's box, there is one pass.
    seen.clear()
    plain = fixed_predictor(replace(fusion, classifier_weight=0), squares_at((0.9, 8)), outputs=1)
    assert plain.detect(image).boxes[0].tolist() == [8, 0, 16, 8]


def test_a_settled_face_gets_no_second_pass():
    def passes(left: int, blue: int, blend: float) -> int:
        image = image_of(FACE, ((left, 255, 0), (left, 255, blue)), FACE, height=SIZE + 2)
        predictor = fixed_predictor(ScoreFusion(box_blend=blend, box_passes=2), squares_at((0.9, 8)))
        seen = []
        predictor.run_classifier = lambda images, boxes, run=predictor.run_classifier: (
            seen.append(1) or run(images, boxes)
        )
        assert len(predictor.detect(image)) == 1
        return len(seen)

    # The box moves right by the blue on the right, times the blend: a tenth of its side is an IoU of 0.82.
    assert passes(250, 51, 0.5) == 1
    assert passes(250, 51, 1) == 2  # a fifth: 0.67
    assert passes(204, 51, 0.5) == 2  # its class has a probability of 0.8


def test_flip_tta_averages_outputs_with_the_mirrored_box():
    fusion = ScoreFusion(classifier_weight=0.25, box_blend=1, flip_tta=True)
    square = ((51, 255, 0), (153, 51, 102))  # the halves differ in all channels
    found = fixed_predictor(fusion, squares_at((0.5, 8)), score_threshold=0).detect(image_of(FACE, square, FACE))
    # P(b) 0.2 and 0.6; face logits 4 and -2.4; the right half is bluer by 0.4, mirrored or not.
    assert found.class_probs[0] == pytest.approx([0.6, 0.4], abs=1e-5)
    assert found.face_scores == pytest.approx([sigmoid(0.25 * 0.8)], rel=1e-5)
    assert found.boxes[0, [0, 2]] == pytest.approx([8 + 0.4 * 8, 16 + 0.4 * 8], abs=1e-4)
    # Mirrored, only the direction of the box differs.
    mirrored = fixed_predictor(fusion, squares_at((0.5, 8)), score_threshold=0).detect(
        image_of(FACE, square[::-1], FACE)
    )
    assert mirrored.class_probs == pytest.approx(found.class_probs) and mirrored.face_scores == found.face_scores
    assert mirrored.boxes[0, 0] == pytest.approx(8 - 0.4 * 8, abs=1e-4)
    (unflipped,) = (
        fixed_predictor(replace(fusion, flip_tta=False), squares_at((0.5, 8)), score_threshold=0)
        .detect(image_of(FACE, square, FACE))
        .class_probs
    )
    assert unflipped == pytest.approx([0.8, 0.2], abs=1e-5)


def test_a_certain_crop_is_not_classified_mirrored():
    fusion = ScoreFusion(flip_tta=True)
    # P(b) 0.98 on the left half and 0.6 on the right; then 0.96.
    certain, uncertain = ((250, 255, 0), (153, 51, 0)), ((245, 255, 0), (153, 51, 0))
    image = image_of(certain, uncertain, certain)
    found = fixed_predictor(fusion, squares_at((0.9, 0), (0.8, 8), (0.7, 16)), score_threshold=0).detect(image)
    order = found.boxes[:, 0].argsort()
    assert found.class_probs[order, 1] == pytest.approx([250 / 255, (245 + 153) / 255 / 2, 250 / 255], abs=1e-4)


ACTIVE = ScoreFusion(
    detector_weight=0.5, classifier_weight=0.25, intercept=-0.5, min_detector_score=0.2, max_face_logit=4
)


def test_stage_1_returns_every_face_that_may_reach_the_score():
    image = image_of(FACE, NO_FACE)
    for fusion, min_score, expected in (
        (ScoreFusion(), None, 0.25),
        (ScoreFusion(min_detector_score=0.2), 0.1, 0.1),
        (ACTIVE, 0.9, ACTIVE.min_detector_score_for(0.9)),
        (ACTIVE, None, 0.2),  # min_detector_score
        (ACTIVE, 0, 0.2),
    ):
        predictor = fixed_predictor(fusion, squares_at((0.9, 0)))
        predictor.detect(image, min_score=min_score, min_face=7)
        assert predictor._detector.calls == [(7, expected)]
    assert ACTIVE.min_detector_score_for(0.9) > 0.2


def test_min_score_filters_the_fused_scores():
    # By position, stage 2 supports the first two faces and rejects the others.
    found = [(0.97, 0), (0.9, 16), (0.6, 8), (0.3, 24), (0.1, 0)]
    image = image_of(FACE, FACE, NO_FACE, NO_FACE)
    everything = fixed_predictor(ACTIVE, squares_at(*found)).detect(image, min_score=0)
    assert len(everything) == 4  # the last is below min_detector_score
    assert (np.diff(everything.scores) <= 0).all()
    for floor in (0.05, 0.2, 0.3, 0.5, 0.9):
        some = fixed_predictor(ACTIVE, squares_at(*found)).detect(image, min_score=floor)
        kept = everything.scores >= floor
        assert some.boxes.tolist() == everything.boxes[kept].tolist()
        assert some.scores.tolist() == everything.scores[kept].tolist()
    by_default = fixed_predictor(ACTIVE, squares_at(*found), score_threshold=0.3).detect(image)
    assert by_default.scores.tolist() == everything.scores[everything.scores >= 0.3].tolist()


def test_a_batch_gives_each_photos_result(monkeypatch):
    images = [image_of(FACE, NO_FACE), image_of(NO_FACE), image_of(FACE, ((51, 255, 0), (51, 255, 255)), FACE)]
    found = [squares_at((0.9, 0), (0.8, 8)), Faces.empty(), squares_at((0.7, 8))]
    fusion = replace(ACTIVE, box_blend=0.5, flip_tta=True)
    alone = [fixed_predictor(fusion, one).detect(image, min_score=0) for one, image in zip(found, images, strict=True)]
    assert [len(one) for one in alone] == [2, 0, 1]
    for batch in (64, 2, 1):  # several photos in one call, and one photo over several calls
        monkeypatch.setattr(module, "CLASSIFIER_BATCH", batch)
        together = fixed_predictor(fusion, *found).detect_batch(images, min_score=0)
        for one, other in zip(alone, together, strict=True):
            assert other.boxes == pytest.approx(one.boxes) and other.scores == pytest.approx(one.scores)
            assert other.class_probs == pytest.approx(one.class_probs)


def test_no_face_to_classify():
    predictor = fixed_predictor(ACTIVE, Faces.empty())
    assert len(predictor.detect(image_of(FACE))) == 0
    ((probs, face_logits, box_deltas),) = predictor.run_classifier([image_of(FACE)], [np.zeros((0, 4), np.float32)])
    assert probs.shape == (0, 2) and face_logits is None and box_deltas is None


def test_unsure_is_a_margin_between_the_two_best_classes():
    # Gaps of 0.6, 0.2 and 0.
    image = image_of(FACE, ((102, 255, 0),) * 2, ((127.5, 255, 0),) * 2)
    found = fixed_predictor(ScoreFusion(unsure_margin=0.3), squares_at((0.9, 0), (0.8, 8), (0.7, 16))).detect(image)
    assert found.unsure.tolist() == [False, True, True]
    assert found.labels[:2] == ("a", "a")
    assert found[1:].unsure.tolist() == [True, True] and found[[0, 2]].unsure_margin == 0.3
    none = fixed_predictor(ScoreFusion(), squares_at((0.9, 0), (0.8, 8), (0.7, 16))).detect(image)
    assert not none.unsure.any()
    assert Detections.empty(("a", "b")).unsure.shape == (0,)
    three = Detections(
        found.boxes[:2], found.face_scores[:2], np.float32([[0.3, 0.25, 0.45], [0.4, 0.26, 0.34]]),
        found.landmarks[:2], ("a", "b", "c"), 0.1,
    )  # fmt: skip
    assert three.unsure.tolist() == [False, True]  # gaps of 0.15 and 0.06; the third class does not matter
    alone = Detections(found.boxes, found.face_scores, np.ones((3, 1), np.float32), found.landmarks, ("a",), 0.9)
    assert not alone.unsure.any()
