"""Groups by a part of the names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.annotations import AnnotatedImage
from common.errors import UserError
from pipeline.data.name_groups import name_groups, shown_groups

ROOT = Path(__file__).parent


def images(*paths: str) -> list[AnnotatedImage]:
    """Return images without faces, whose id is the file's stem."""
    boxes = np.zeros((0, 4), np.float32)
    return [AnnotatedImage(ROOT / path, Path(path).stem, (9, 9), boxes, ()) for path in paths]


def test_the_first_parenthesis_or_the_whole_match() -> None:
    shots = images("images/cam1_0.jpg", "images/cam2_0.jpg", "images/cam1_1.jpg")
    assert name_groups(shots, ROOT, r"^(cam\d+)_(\d+)") == ["cam1", "cam2", "cam1"]
    assert name_groups(shots, ROOT, r"cam\d+") == ["cam1", "cam2", "cam1"]
    assert name_groups(shots, ROOT, r"_(?:\d)$") == ["_0", "_0", "_1"]


def test_paths_are_searched_where_an_id_does_not_match() -> None:
    shots = images("lobby/cam1.jpg", "yard/b.jpg", "lobby/c.jpg")
    assert name_groups(shots, ROOT, r"^(\w+)/") == ["lobby", "yard", "lobby"]
    # One source for all photos: the path of cam1.jpg, too.
    assert name_groups(shots, ROOT, r"cam\d|^[a-z]+(?=/)") == ["lobby", "yard", "lobby"]
    assert name_groups(images("../other/a.jpg"), ROOT, "other/") == ["other/"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(cam", "is not a regular expression"),
        (r"x\d", r"is not in the names of 4 of 4 photos, e\.g\. cam1, cam2, cam3; use a pattern"),
        ("cam", r"is not in the names of 1 of 4 photos, e\.g\. b;"),
        ("cam(9)?", "is not in the names of 4 of 4 photos"),
    ],
)
def test_refusals(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^--group-by .*{message}"):
        name_groups(images("cam1.jpg", "cam2.jpg", "cam3.jpg", "b.jpg"), ROOT, pattern)


def test_groups_in_a_message() -> None:
    assert shown_groups(["a", "b", "a"]) == "2 groups: 'a' (2), 'b' (1)"
    assert shown_groups(list("abcd")) == "4 groups: 'a' (1), 'b' (1), 'c' (1), ..."
