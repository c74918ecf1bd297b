"""What rows of YOLO label files mean: boxes, key points, polygons, predictions, and rows that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.annotations import Annotations, read_dataset
from common.annotations.collect import DatasetError
from common.errors import UserError
from tests.helpers.yolo_sets import SIZE, make_row, row_text, save_photo, save_text

# A box at 80, 56, 120, 104 of a photo of 200x160 px.
BOX = "0.5 0.5 0.2 0.3"
PIXELS = [80, 56, 120, 104]
POINTS = "0.45 0.45 0.55 0.45 0.5 0.52 0.46 0.58 0.54 0.58"
FLAGGED = "0.45 0.45 2 0.55 0.45 2 0.5 0.52 1 0.46 0.58 2 0 0 0"
TRIANGLE = "0.1 0.25 0.3 0.25 0.2 0.5"
# A flat polygon, or a large box with points in it.
UNCLEAR = "0.5 0.5 0.6 0.5 0.65 0.52 0.7 0.52 0.7 0.54 0.6 0.55 0.5 0.52"


def read_rows(root: Path, *files: str, config: str = "") -> Annotations:
    """Read a dataset with these label files; the first photo has a plain box only if a file says so."""
    for i, rows in enumerate(files):
        save_photo(root / f"images/p{i:03}.png")
        save_text(root / f"labels/p{i:03}.txt", rows)
    save_text(root / "data.yaml", f"train: images\nnames: [mask, no mask]\n{config}")
    read = read_dataset(root)
    assert read.face_count + read.refused_count == sum(len(rows.splitlines()) for rows in files)
    return read


def boxes_of(read: Annotations) -> list[list[float]]:
    return [box.round(3).tolist() for image in read.images for box in image.boxes]


@pytest.mark.parametrize(
    ("rows", "config"),
    [
        ([f"0 {BOX} {POINTS}"], ""),
        ([f"0 {BOX} {POINTS}"], "kpt_shape: [5, 2]"),
        ([f"0 {BOX} {FLAGGED}"], ""),
        ([f"0 {BOX} {FLAGGED}"], "kpt_shape: [5, 3]"),
        ([f"0 {BOX} " + "-1 " * 10], ""),
        ([f"0 {BOX} " + "-1 " * 15], ""),
        ([f"0 {BOX} " + "0 " * 10], ""),
        ([f"0 {BOX}"], "kpt_shape: [5, 2]"),
        ([f"0 {BOX} {POINTS} 0.9"], ""),
        ([f"0 {BOX} {POINTS} 0.9"], "kpt_shape: [5, 2]"),
        ([f"0 {BOX} {POINTS} 0.9 4"], "kpt_shape: [5, 2]"),
        ([f"0 {BOX} 0.91"], ""),
        ([f"0 {BOX} 12"], ""),
        ([f"0 {BOX} 0.91 7"], ""),
        ([f"0 {BOX} 0.91 1", f"0 {BOX} 0.4"], ""),
        ([f"0 {BOX} 0.91 1"] * 5, ""),
        ([f"0 {BOX} 0.45 0.45"], "kpt_shape: [1, 2]"),
    ],
)
def test_a_box_with_more_values_is_read_as_the_box(tmp_path: Path, rows: list[str], config: str) -> None:
    read = read_rows(tmp_path, *rows, config=config)
    assert boxes_of(read) == [PIXELS] * len(rows) and not read.problems
    assert all(image.complete for image in read.images)
    if rows != [f"0 {BOX}"]:
        assert any("after the box, which are not used" in note for note in read.notes)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([f"0 {TRIANGLE}"], [20, 40, 60, 80]),
        ([f"0 {BOX}", f"0 {UNCLEAR}"], [100, 80, 140, 88]),  # datasets of key points have no plain boxes
        (["0 0.45 0.45 0.55 0.45 0.55 0.55 0.45 0.55"], [90, 72, 110, 88]),  # an oriented box
        (["0 0.45 0.45 0.55 0.45 0.45 0.55 0.55 0.55"], [90, 72, 110, 88]),  # its corners in the order of reading
        (["0 0.5 0.4 0.6 0.5 0.5 0.6 0.4 0.5 0.5 0.4"], [80, 64, 120, 96]),  # closed
        (["0 0.6 0.5 0.57 0.57 0.5 0.6 0.43 0.57 0.4 0.5 0.43 0.43 0.5 0.4 0.57 0.43"], [80, 64, 120, 96]),  # round
        ([f"0 {UNCLEAR}", "0 0.5 0.4 0.6 0.5 0.5 0.6 0.4 0.51"], [100, 80, 140, 88]),  # of varying lengths
    ],
)
def test_a_polygon_is_read_as_its_hull(tmp_path: Path, rows: list[str], expected: list[float]) -> None:
    read = read_rows(tmp_path, *rows)
    assert expected in boxes_of(read) and not read.problems and read.face_count == len(rows)


@pytest.mark.parametrize("config", ["kpt_shape: [0, 0]", "kpt_shape: [0, 2]"])
def test_kpt_shape_can_say_that_all_values_are_corners(tmp_path: Path, config: str) -> None:
    assert boxes_of(read_rows(tmp_path, f"0 {UNCLEAR}", config=config)) == [[100, 80, 140, 88]]


@pytest.mark.parametrize(
    ("row", "ways"),
    [
        (UNCLEAR, "kpt_shape: [5, 2]"),
        (f"{BOX} 0.91 1", "kpt_shape: [1, 2]"),  # a triangle that touches the edge, or the number of a track
    ],
)
def test_rows_that_can_be_two_things_refuse_the_dataset_with_the_way_out(tmp_path: Path, row: str, ways: str) -> None:
    with pytest.raises(DatasetError) as raised:
        read_rows(tmp_path, f"0 {row}", f"1 {row}")
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/labels/p000.txt: line 1 has {len(row.split()) + 1} values, as have 2 rows")
    assert ways in message and "kpt_shape: [0, 0]" in message and len(message.splitlines()) == 1
    assert boxes_of(read_rows(tmp_path, f"0 {row}", f"1 {row}", config=ways))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("0 120 90 40 50", "has the value 120, but all must be within 0 and 1: values look like pixels"),
        ("0 10 20 30 20 30 40", "has the value 30, but all must be within 0 and 1: values look like pixels"),
        ("0 50 50 20 20 0.9", "values look like pixels"),
        ("0 0.5 0.5 0.2", "has 4 values, which is not a box or a polygon"),
        ("0", "has 1 values, which is not a box or a polygon"),
        (f"0 {BOX} 45.5", "has 6 values, of which the last is no confidence or number of a track"),
        ("0 0.91 0.5 0.5 0.2 0.3", "has 6 values, of which the last is no confidence"),  # the confidence comes first
        (f"0 {TRIANGLE} 0.9", "has 8 values, which is not a box or a polygon"),
        (f"0 {BOX} 0.9 0.9 0.9 0.1 0.2", "has 10 values, which is not a box or a polygon"),
        ("0 0.2 0.2 0.3 0.2 0.3 -1 0.2 0.3", "the numbers fit neither a box with key points nor a polygon"),
        ("zebra 0.5 0.5 0.2 0.3", "has the unknown class zebra"),
        ("2 0.5 0.5 0.2 0.3", "has the unknown class 2"),
        ("0.5 0.5 0.5 0.2 0.3", "has the unknown class 0.5"),
    ],
)
def test_a_row_that_is_refused_is_counted_and_its_photo_not_complete(tmp_path: Path, row: str, fault: str) -> None:
    read = read_rows(tmp_path, f"0 {BOX}", f"{row}\n1 {BOX}")
    (problem,) = read.problems
    assert problem.file.name == "p001.txt" and fault in problem.reason and problem.reason.startswith("line 1 ")
    assert (problem.kind, problem.objects) == ("refused", 1)
    assert [image.complete for image in read.images] == [True, False]
    assert boxes_of(read) == [PIXELS] * 2


def test_other_row_lengths_than_kpt_shape_says_are_refused(tmp_path: Path) -> None:
    read = read_rows(tmp_path, f"0 {BOX}", f"0 {BOX} {POINTS}", config="kpt_shape: [5, 3]")
    assert [p.reason for p in read.problems] == [
        "line 1 has 15 values, but `kpt_shape: [5, 3]` means 20 (or 5, a box only); left out"
    ]


@pytest.mark.parametrize(
    "row",
    [
        f"0.0 {BOX}",
        f"mask {BOX}",
        "0,0.5,0.5,0.2,0.3",
        "0, 0.5, 0.5, 0.2, 0.3",
        "0;0.5;0.5;0.2;0.3",
        "0 0,5 0,5 0,2 0,3",
        "\t0\t.5 5e-1 +0.2  .3 ",
    ],
)
def test_spellings_of_a_row(tmp_path: Path, row: str) -> None:
    read = read_rows(tmp_path, row)
    assert boxes_of(read) == [PIXELS] and read.images[0].labels == ("mask",)
    assert any("name of a class" in note for note in read.notes) == row.startswith("mask")


def test_class_names_with_a_space_instead_of_numbers(tmp_path: Path) -> None:
    assert read_rows(tmp_path, f"no mask {BOX}").images[0].labels == ("no mask",)


@pytest.mark.parametrize("kind", ["key points", "key points with visibility", "polygon"])
@pytest.mark.parametrize("seed", range(5))
def test_twenty_rows_of_a_kind_tell_what_they_are(tmp_path: Path, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = [make_row(kind, rng) for _ in range(20)]
    read = read_rows(tmp_path, *(f"0 {row_text(values)}" for values, _ in made))
    np.testing.assert_allclose(boxes_of(read), [box * [*SIZE, *SIZE] for _, box in made], atol=0.01)


def test_one_odd_polygon_among_many_does_not_refuse_the_dataset(tmp_path: Path) -> None:
    crossing = "0 0.5 0.5 0.3 0.4 0.55 0.5 0.45 0.45 0.5 0.55"
    square = "0 0.1 0.1 0.2 0.1 0.25 0.15 0.2 0.2 0.1 0.2"
    read = read_rows(tmp_path, crossing, *[square] * 11)
    assert boxes_of(read)[0] == [60, 64, 110, 88] and read.face_count == 12


@pytest.mark.parametrize("shape", ["[5, 4]", "5", "[a, b]", "[-1, 2]", "[5]"])
def test_a_wrong_kpt_shape_is_refused(tmp_path: Path, shape: str) -> None:
    with pytest.raises(UserError, match="`kpt_shape` is not"):
        read_rows(tmp_path, f"0 {BOX}", config=f"kpt_shape: {shape}")
