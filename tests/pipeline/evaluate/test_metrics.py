"""Scores and errors on cases computed by hand, and the bootstrap compared with the scoring library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate.bootstrap import ONE_LABEL, best_f1_threshold, bootstrap, match, mean_ap
from pipeline.evaluate.metrics import (
    SIZES,
    Sample,
    every_class,
    iou_index,
    iou_thresholds,
    one_label,
    score_every_class,
    score_samples,
)
from pipeline.evaluate.tide_errors import (
    ERROR_KINDS,
    assign_errors,
    confusion_matrix,
    count_errors,
    filter_by_score,
    list_errors,
    oracle_fixed,
)

NAMES = ("with_mask", "without_mask", "mask_weared_incorrect")


def sample(
    gt_boxes: Sequence[Sequence[float]] = (),
    gt_labels: Sequence[int] = (),
    boxes: Sequence[Sequence[float]] = (),
    scores: Sequence[float] = (),
    labels: Sequence[int] = (),
    image_id: str = "a",
    class_scores: Sequence[Sequence[float]] | None = None,
) -> Sample:
    return Sample(
        image_id,
        np.array(gt_boxes, np.float32),
        np.array(gt_labels, np.intp),
        np.array(boxes, np.float32),
        np.array(scores, np.float64),
        np.array(labels, np.intp),
        None if class_scores is None else np.array(class_scores, np.float64),
    )


# Two faces, one half behind the other (IoU 60/140 = 0.43), and three boxes:
#   D1 on T1: IoU 90/110 = 0.818 (on T2: 70/130 = 0.538)
#   D2 on T1: IoU 91/100 = 0.91  (on T2: 60/131 = 0.458)
#   D3 on T2: IoU 92/100 = 0.92  (on T1: 60/132 = 0.455)
T1, T2 = (0, 0, 100, 100), (40, 0, 140, 100)
D1, D2, D3 = (10, 0, 110, 100), (9, 0, 100, 100), (40, 0, 132, 100)
OVERLAPPING = sample([T1, T2], [0, 0], [D3, D1, D2], [0.7, 0.9, 0.8], [0, 0, 0])


def test_average_precision_of_overlapping_faces_by_hand() -> None:
    scores = score_samples([OVERLAPPING], NAMES)
    # IoU 0.5 to 0.8: D1 takes T1, so D2 is false; D3 takes T2. Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1:
    # of 101 recalls, 51 (0 to 0.5) have precision 1, and 50 have 2/3.
    low = (51 + 50 * 2 / 3) / 101
    # IoU 0.85 and 0.9: D1 is false, D2 takes T1, D3 takes T2. Precision 0, 1/2, 2/3: every recall has 2/3 at best.
    # IoU 0.95: nothing matches.
    for category in (scores.classes[0], scores.faces, scores.mean):
        assert category.overall.gt_count == 2
        assert category.overall.ap50 == pytest.approx(low)
        assert category.overall.ap75 == pytest.approx(low)
        assert category.overall.ap == pytest.approx((7 * low + 2 * 2 / 3 + 0) / 10)
        assert category.overall.recall50 == 1
    assert scores.classes[1].overall.ap is None
    curve = scores.faces.precision
    assert curve is not None
    assert curve[50] == 1
    assert curve[51] == pytest.approx(2 / 3)


def test_the_class_matters_for_classes_but_not_for_faces() -> None:
    both = sample([T1, T2], [0, 1], [D2, D3], [0.9, 0.8], [0, 0])
    scores = score_samples([both], NAMES)
    # Class 0: one face, found first. Class 1: one face, never found. The third class has no face: not in the mean.
    assert [c.overall.ap50 for c in scores.classes] == [1, 0, None]
    assert scores.mean.overall.ap50 == 0.5
    assert scores.faces.overall.ap50 == 1


def test_nothing_found_and_nothing_there() -> None:
    blind = score_samples([sample([T1], [0])], NAMES)
    assert blind.mean.overall.ap50 == blind.faces.overall.recall50 == 0
    empty = score_samples([sample(boxes=[D1], scores=[0.9], labels=[0])], NAMES)
    assert empty.mean.overall.ap50 is None
    assert empty.faces.overall.gt_count == 0
    assert score_samples([sample()], NAMES).faces.precision is None
    assert bootstrap([sample(boxes=[D1], scores=[0.9], labels=[0])], NAMES, rounds=5) == {}
    assert bootstrap([sample([T1], [0])], NAMES, rounds=5)["mAP50"].high == 0
    assert np.isnan(mean_ap([sample()], 3, 0.5))


def test_photos_of_crowds_are_not_cut_off_at_100_detections() -> None:
    grid = [(20.0 * i, 20.0 * j, 20.0 * i + 10, 20.0 * j + 10) for i in range(15) for j in range(10)]
    crowd = sample(grid, [0] * 150, grid, np.linspace(1, 0.1, 150), [0] * 150)  # type: ignore[arg-type]
    assert score_samples([crowd], NAMES).faces.overall.recall50 == 1


def test_a_face_counts_in_one_size_only_and_the_lower_bound_is_inside() -> None:
    sides = (11.9, 12, 24, 47.9, 48)
    boxes = [(100.0 * i, 0, 100.0 * i + side, side) for i, side in enumerate(sides)]
    by_size = score_samples([sample(boxes, [0] * 5, boxes[:3], [0.9, 0.8, 0.7], [0] * 3)], NAMES).faces.by_size
    assert {size: f.gt_count for size, f in by_size.items()} == {"<12": 1, "12-24": 1, "24-48": 2, ">48": 1}
    assert [by_size[size].ap50 for size in ("<12", "12-24", ">48")] == [1, 1, 0]
    assert by_size["24-48"].recall50 == 0.5


def test_the_iou_of_the_run_is_scored_in_addition_to_cocos() -> None:
    wide = sample([T1], [0], [(0, 0, 100, 40)], [0.9], [0])  # IoU 0.4
    metrics = score_samples([wide], NAMES, iou=0.35).mean.overall
    assert (metrics.ap50, metrics.ap, metrics.ap_at_iou, metrics.recall_at_iou) == (0, 0, 1, 1)
    metrics = score_samples([OVERLAPPING], NAMES, iou=0.75).mean.overall
    assert metrics.ap_at_iou == metrics.ap75
    assert len(iou_thresholds(0.75)) == 10
    assert iou_index(0.75) == 5


def test_confusion_matrix_by_hand() -> None:
    # D1 (best score) takes T1 with the right class, so D2 has no face. D3 takes T2 with the wrong class. D4 is on no
    # face. T3 is not found. Columns and rows: the three classes, background.
    s = sample(
        [T1, T2, (500, 0, 550, 50)],
        [0, 1, 2],
        [D1, D2, D3, (300, 300, 320, 320)],
        [0.9, 0.8, 0.7, 0.6],
        [0, 1, 0, 2],
    )
    expected = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]
    assert confusion_matrix([s], 3).tolist() == expected
    # The image twice; the second time only D1 passes the threshold, so T2 and T3 are not found.
    both = confusion_matrix([s, filter_by_score([s], 0.85)[0]], 3)
    assert (both - expected).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_each_error_has_its_kind() -> None:
    far = (300, 300, 320, 320)
    s = sample(
        [T1, T2, (500, 0, 550, 50), (600, 0, 610, 10)],
        [0, 1, 2, 0],
        [D1, D2, D3, far, (500, 0, 550, 20)],  # the last: IoU 0.4 on the third face
        [0.9, 0.8, 0.7, 0.6, 0.5],
        [0, 1, 0, 2, 2],
    )
    a = assign_errors(s)
    assert (a.matched, a.loc, a.miss, a.dupe, a.bkg) == (((0, 0), (1, 2)), ((2, 4),), (3,), (1,), (3,))
    counts = count_errors([s], list_errors([s]))
    assert counts.kinds == dict.fromkeys(ERROR_KINDS, 1)
    assert (counts.gt_count, counts.detections, counts.correct) == (4, 5, 1)
    assert counts.by_size["<12"] == {"gt_count": 1, "miss": 1, "loc": 0, "cls": 0, "correct": 0}
    assert counts.by_size[">48"] == {"gt_count": 3, "miss": 0, "loc": 1, "cls": 1, "correct": 1}


def test_a_face_behind_a_found_one_is_a_miss_unless_a_box_is_left_for_it() -> None:
    # D3 matches T2 and also overlaps T1 (0.455): without another box, T1 is a miss. With a second box, T1 is a loc.
    assert assign_errors(sample([T1, T2], [0, 0], [D3], [0.9], [0])).miss == (0,)
    assert assign_errors(sample([T1, T2], [0, 0], [D3, (60, 0, 132, 100)], [0.9, 0.8], [0, 0])).loc == ((0, 1),)


def test_average_precision_without_one_kind_of_error() -> None:
    # T1 has the wrong class, T2's box overlaps too little (IoU 0.4), T3 is a miss; the bkg box scores best.
    s = sample(
        [T1, (200, 0, 300, 100), (500, 0, 550, 50)],
        [0, 0, 0],
        [(700, 0, 750, 50), (1, 0, 100, 100), (0, 0, 99, 100), (200, 0, 300, 40)],
        [0.9, 0.8, 0.7, 0.6],
        [0, 1, 0, 0],
    )
    # Unchanged, for the one class with faces: false, (0.8 is of class 1), hit, false. Precision 1/2 up to recall 1/3:
    # 34 of 101 recalls.
    assert mean_ap([s], 3, 0.5) == pytest.approx(34 / 2 / 101)
    expected = {
        "miss": 51 / 2 / 101,  # of two faces the hit is 1/2: 51 recalls
        "loc": 67 * 2 / 3 / 101,  # false, hit, hit: 67 recalls have precision 2/3
        "cls": 34 / 2 / 101,  # false, hit, false (the second box on T1), false: unchanged
        "bkg": 34 / 101,  # hit, false
        "dupe": 0,  # the second box on T1 was the hit of this class
    }
    assert {kind: mean_ap(oracle_fixed([s], kind), 3, 0.5) for kind in ERROR_KINDS} == pytest.approx(expected)
    # Where that box is the only one on T1, the right class is the whole gain.
    named = sample([T1], [0], [D2], [0.8], [1])
    assert mean_ap([named], 3, 0.5) == 0
    assert mean_ap(oracle_fixed([named], "cls"), 3, 0.5) == 1


def test_best_score_is_that_of_the_best_f1() -> None:
    # F1 after each: 2/3 (1 of 1, 2 faces), 1/2. D1 hit, D2 false, D3 hit: 2/3, 2/4, 4/5.
    assert best_f1_threshold([OVERLAPPING], 3, 0.5) == 0.7
    assert best_f1_threshold([OVERLAPPING], 3, 0.85) == 0.7
    assert best_f1_threshold([sample([T1], [0], [D2, D3], [0.9, 0.8], [0, 0])], 3, 0.5) == 0.9
    assert best_f1_threshold([sample([T1], [0])], 3, 0.5) == 0
    # F1 is 0.5, 0.8, 0.67 and 0.86 from 0.95, 0.9, 0.8 and 0.7 on.
    third, nothing = (300, 0, 400, 100), (600, 0, 700, 100)
    three = [sample([T1, T2, third], [0, 0, 0], [T1, T2, nothing, third], [0.95, 0.9, 0.8, 0.7], [0, 0, 0, 0])]
    assert best_f1_threshold(three, 3, 0.5) == best_f1_threshold(three, 3, 0.5, tolerance=0.05) == 0.7
    assert best_f1_threshold(three, 3, 0.5, tolerance=0.2) == pytest.approx(0.8)
    assert best_f1_threshold(three, 3, 0.5, tolerance=1) == pytest.approx((0.95 + 0.7) / 2)
    # The middle of 0.9 and 0.6 is 0.75, where F1 is 0.67; both are as near to it.
    falling = [sample([T1, T2, third], [0, 0, 0], [T1, T2, nothing, third], [0.95, 0.9, 0.85, 0.6], [0, 0, 0, 0])]
    assert best_f1_threshold(falling, 3, 0.5, tolerance=0.1) in (0.9, 0.6)


box = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(8, 60)] * 2).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
)
truth = st.tuples(box, st.integers(0, 2))
found = st.tuples(box, st.integers(1, 9).map(lambda v: v / 10), st.integers(0, 2))  # few scores: many ties
photo = st.tuples(st.lists(truth, max_size=5), st.lists(found, max_size=7)).map(
    lambda v: sample(
        [t[0] for t in v[0]], [t[1] for t in v[0]], [d[0] for d in v[1]], [d[1] for d in v[1]], [d[2] for d in v[1]]
    )
)


@settings(max_examples=25, deadline=None)
@given(st.lists(photo, min_size=1, max_size=6), st.sampled_from([0.35, 0.5]), st.randoms(use_true_random=False))
def test_the_bootstrap_agrees_with_the_library(photos: list[Sample], iou: float, random: object) -> None:
    picked = [random.randrange(len(photos)) for _ in photos]  # type: ignore[attr-defined]
    # The order of equal scores is arbitrary, and copies of an image would mix it. So scores differ within an image.
    distinct = [replace(s, scores=s.scores + np.arange(len(s.scores))[::-1] / 1000) for s in photos]
    for base, chosen, weights in (
        (photos, photos, np.ones(len(photos), np.intp)),
        # Across images, equal scores count in image order, so the library gets the drawn images in that order.
        (distinct, [distinct[i] for i in sorted(picked)], np.bincount(picked, minlength=len(photos))),
    ):
        theirs = score_samples(chosen, NAMES, iou)
        for k, category in [*enumerate(theirs.classes), (None, theirs.faces)]:
            ours = match(base, iou_thresholds(iou), k).average_precision(weights)
            if category.overall.ap is None:
                assert np.isnan(ours).all()
                continue
            expected = (category.overall.ap, category.overall.ap50, category.overall.ap75, category.overall.ap_at_iou)
            assert (ours[:10].mean(), ours[0], ours[5], ours[iou_index(iou)]) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(photo)
def test_every_face_and_detection_has_one_place(s: Sample) -> None:
    a = assign_errors(s)
    pairs = [*a.matched, *a.loc]
    assert sorted([t for t, _ in pairs] + list(a.miss)) == list(range(len(s.gt_boxes)))
    assert sorted([d for _, d in pairs] + [*a.dupe, *a.bkg]) == list(range(len(s.boxes)))
    counts = count_errors([s], list_errors([s]))
    assert sum(row["gt_count"] for row in counts.by_size.values()) == counts.gt_count
    matrix = confusion_matrix([s], 3)
    assert matrix[:3].sum() == counts.gt_count
    assert matrix[:, :3].sum() == counts.detections
    assert np.trace(matrix) == counts.correct
    assert set(counts.by_size) == set(SIZES)


def test_bootstrap_is_seeded_and_brackets_the_score() -> None:
    other = sample([T1], [0], [D3], [0.95], [0], "b")
    photos = [OVERLAPPING, other, OVERLAPPING, sample([T2], [1], [D3], [0.5], [1], "c")]
    once, again = bootstrap(photos, NAMES, 0.35, 50, 3), bootstrap(photos, NAMES, 0.35, 50, 3)
    assert once == again != bootstrap(photos, NAMES, 0.35, 50, 4)
    names = {"mAP50", "mAP50-95", "AP50/with_mask", "AP50/without_mask", "mAP@0.35"}
    assert set(once) == names | {name + ONE_LABEL for name in names} | {"face_AP50", "face_AP@0.35"}
    assert all(i.low <= i.value <= i.high for i in once.values())
    assert once["mAP50"].low < once["mAP50"].high
    assert once["mAP50"].value == pytest.approx(score_samples(photos, NAMES).mean.overall.ap50)
    assert bootstrap(photos, NAMES, rounds=0) == {}


def test_samples_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        sample([T1], [0, 1])
    with pytest.raises(ValueError, match="not a finite"):
        sample(boxes=[D1], scores=[float("nan")], labels=[0])
    with pytest.raises(ValueError, match=r"1 boxes, but class scores of shape \(2, 1\)"):
        sample(boxes=[D1], scores=[0.9], labels=[0], class_scores=[[0.9], [0.1]])
    with pytest.raises(ValueError, match="a class score is not a finite"):
        sample(boxes=[D1], scores=[0.9], labels=[0], class_scores=[[float("inf")]])


# Two faces, both with with_mask as the best class; the second is without_mask, its second best class.
TWO_FACES = sample(
    [T1, T2],
    [0, 1],
    [D3, D2],
    [0.54, 0.81],
    [0, 0],
    class_scores=[[0.54, 0.36, 0.0], [0.81, 0.0005, 0.0895]],  # of D3 and D2; rows sum to 0.9 and 0.9
)


def test_class_scores_are_sorted_with_their_boxes() -> None:
    assert TWO_FACES.scores.tolist() == [0.81, 0.54]
    assert TWO_FACES.class_scores is not None
    assert TWO_FACES.class_scores[:, 0].tolist() == [0.81, 0.54]
    (kept,) = filter_by_score([TWO_FACES], 0.6)
    assert kept.class_scores is not None
    assert kept.class_scores.tolist() == [[0.81, 0.0005, 0.0895]]


def test_every_class_of_a_face_counts_with_its_own_score() -> None:
    (rows,) = every_class([TWO_FACES])
    # 0.0005 and 0 are below the lowest class score of 0.001.
    assert list(zip(rows.scores.tolist(), rows.labels.tolist(), strict=True)) == [
        (0.81, 0),
        (0.54, 0),
        (0.36, 1),
        (0.0895, 2),
    ]
    expected = np.array([D2, D3, D3, D2], np.float32)
    assert (rows.boxes == expected).all()
    assert len(every_class([TWO_FACES], 0.0)[0].boxes) == 6
    assert len(every_class([TWO_FACES], 0.36)[0].boxes) == 3  # from the lowest score on

    one = score_samples([TWO_FACES], NAMES)
    each = score_every_class([TWO_FACES], NAMES, one)
    assert [c.overall.ap50 for c in one.classes] == [1, 0, None]
    assert [c.overall.ap50 for c in each.classes] == [1, 1, None]
    assert (one.mean.overall.ap50, each.mean.overall.ap50) == (0.5, 1)
    assert each.faces == one.faces  # six boxes on two faces would say nothing about finding faces
    assert each.faces.overall.ap50 == 1


def test_every_class_brings_false_detections_as_well() -> None:
    # A with_mask face (0.5 and 0.4) has a higher without_mask score than the face that is without_mask.
    covered = sample([T1], [0], [D2], [0.5], [0], class_scores=[[0.5, 0.4]])
    bare = sample([T1], [1], [D2], [0.3], [1], "b", class_scores=[[0.1, 0.3]])
    one = score_samples([covered, bare], NAMES[:2])
    each = score_every_class([covered, bare], NAMES[:2], one)
    assert [c.overall.ap50 for c in one.classes] == [1, 1]
    assert [c.overall.ap50 for c in each.classes] == [1, 0.5]  # without_mask: false (0.4), hit (0.3)


def test_rows_of_one_box_become_its_best_label() -> None:
    rows = every_class([TWO_FACES])
    (one,) = one_label(rows)
    for name in ("boxes", "scores", "labels"):
        assert (getattr(one, name) == getattr(TWO_FACES, name)).all()
    assert one_label([TWO_FACES])[0] is TWO_FACES
    assert every_class(rows)[0] is rows[0]
    # Boxes that differ, even by little, are two detections.
    near = sample([T1], [0], [D2, np.add(D2, (0, 0, 0, 0.01)).tolist()], [0.9, 0.8], [0, 1])
    assert len(one_label([near])[0].boxes) == 2


def test_bootstrap_has_every_class_and_one_label() -> None:
    found = bootstrap([TWO_FACES], NAMES, rounds=5)
    assert (found["mAP50"].value, found["mAP50" + ONE_LABEL].value) == (1, 0.5)
    assert (found["AP50/without_mask"].low, found["AP50/without_mask" + ONE_LABEL].high) == (1, 0)
    assert found["face_AP50"].value == 1
    rows = bootstrap(every_class([TWO_FACES]), NAMES, rounds=5)  # in the form of another detector's results
    assert rows == found
    assert bootstrap([TWO_FACES], NAMES, rounds=5, min_score=0.4)["mAP50"].value == 0.5
    # The first box's second class, 0.4, is before the other face, but is not a detection of a face.
    twice = sample([T1, T2], [0, 0], [D2, D3], [0.5, 0.3], [0, 0], class_scores=[[0.5, 0.4], [0.3, 0.1]])
    assert bootstrap([twice], NAMES[:2], rounds=5)["face_AP50"].value == 1


def test_fixed_classes_leave_no_stale_scores() -> None:
    (fixed,) = oracle_fixed([TWO_FACES], "cls")
    assert fixed.labels.tolist() == [0, 1]
    assert fixed.class_scores is None
