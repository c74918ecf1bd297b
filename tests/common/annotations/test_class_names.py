"""Class names: cleaned, renamed, and checked for spellings that mean the same."""

from __future__ import annotations

import pytest

from common.annotations.class_names import check_renames, class_hints, class_key, clean_name, parse_renames
from common.errors import UserError


def test_spaces_and_separators() -> None:
    assert clean_name("  no \t mask\n") == "no mask"
    assert clean_name("u\u0308 \ud800") == "ü \N{REPLACEMENT CHARACTER}"
    assert len({class_key(name) for name in ("No-Mask", "no_mask", " no mask ", "NOMASK", "no.mask")}) == 1


def test_renames() -> None:
    assert parse_renames(["Mask = with_mask", "a=b=c"]) == {"Mask": "with_mask", "a": "b=c"}
    for text in ("Mask", "=x", "x=", ""):
        with pytest.raises(UserError, match="OLD=NEW"):
            parse_renames([text])
    with pytest.raises(UserError, match="'a' is given two new names"):
        parse_renames(["a=b", "a=c"])
    with pytest.raises(UserError, match=r"--rename x=y: no such class; the data has b, c"):
        check_renames({"x": "y"}, ["c", "b"])


def test_near_equal_names_are_pointed_out() -> None:
    (hint,) = class_hints(["cat", "Cat", "dog"])
    assert "'Cat' and 'cat'" in hint and "--rename 'Cat=cat'" in hint


def test_usual_spellings_are_offered() -> None:
    (hint,) = class_hints(["mask", "no-mask", "incorrect_mask", "with_mask"])
    assert hint.endswith(
        "--rename 'mask=with_mask' 'no-mask=without_mask' 'incorrect_mask=mask_weared_incorrect'"
    ) or all(f"'{pair}'" in hint for pair in ("mask=with_mask", "no-mask=without_mask"))
    assert class_hints(["with_mask", "without_mask", "mask_weared_incorrect"]) == []
    assert class_hints(["zebra"]) == [] == class_hints(["face"]) == class_hints(["Face", "zebra"])
    assert "'face=without_mask'" in class_hints(["face", "with_mask"])[0]
    assert "'face=without_mask'" in class_hints(["face", "face_mask"])[0]
