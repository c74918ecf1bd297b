"""sources.yaml: what is read, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.annotations.source import Source, draw_factors
from common.errors import UserError
from common.sources.trust_file import read_trust_file


def test_fields_and_places(tmp_path: Path) -> None:
    file = tmp_path / "sources.yaml"
    text = (
        "a: {}\nb:\n  classes: [without_mask]\n  absent_classes: [other]\n  edges: offset\n  share: 1\n"
        "  twins: t.csv\n  left_out: s.csv\nc:\n"
    )
    file.write_text(text, encoding="utf-8")
    found = read_trust_file(file)
    assert found["a"] == found["c"] == {}
    assert found["b"] == {
        "classes": ("without_mask",),
        "absent_classes": ("other",),
        "edges": "offset",
        "share": 1,
        "twins": "t.csv",
        "left_out": tmp_path / "s.csv",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {sahre: 0.2}", "a: unknown field 'sahre'; use edges"),
        ("a: {share: many}", "a: share is 'many', must be a number"),
        ("a: {share: true}", "a: share is True, must be a number"),
        ("a: {background: 1}", "a: background is 1, must be true or false"),
        ("a: {classes: with_mask}", "a: classes is 'with_mask', must be a list of texts"),
        ("a: {classes: [1]}", "must be a list of texts"),
        ("a: 3", "a: is not a table"),
        ("- a", "is not a table from source"),
        ("", "is not a table from source"),
        ("a: [", "malformed YAML"),
        ("a: {face_free: true}\nb: {}\na: {share: 0.2}", "has `a:` twice, again on line 3; remove one"),
        ("a:\n  share: 0.2\n  share: 0.3", "has `share:` twice, again on line 3; remove one"),
        ("? [a, b]\n: {}", "malformed YAML"),
    ],
)
def test_refusals_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "sources.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        read_trust_file(file)
    assert str(raised.value).startswith(str(file)) and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no.yaml: does not exist; check --sources"):
        read_trust_file(tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a b"}, "use a name of letters"),
        ({"edges": "some"}, "edges 'some' is unknown"),
        ({"share": 1.0}, "share 1.0 must be 0 or more and below 1"),
        ({"face_free": True, "classes": ("x",)}, "face_free photos have no classes"),
        ({"classes": ("x", "y"), "absent_classes": ("y",)}, "'y' is in classes and in absent_classes; remove one"),
    ],
)
def test_sources_check_themselves(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Source(**{"name": "a", "data": Path("d"), **fields})  # type: ignore[arg-type]


def test_draws_follow_the_shares() -> None:
    counts = {"main": 300, "a": 100, "b": 600, "none": 0}
    factors = draw_factors(counts, {"a": 0.4, "none": 0.3})
    drawn = {name: factors[name] * count for name, count in counts.items()}
    total = sum(drawn.values())
    assert drawn["a"] / total == pytest.approx(0.4)
    assert drawn["b"] / drawn["main"] == pytest.approx(2)
    assert factors["none"] == 0
    assert draw_factors(counts, {}) == {"main": 1, "a": 1, "b": 1, "none": 0}


@pytest.mark.parametrize("shares", [{"a": 0.6, "b": 0.4}, {"a": 0.9, "b": 0.3, "main": 0.2}])
def test_shares_must_leave_draws(shares: dict[str, float | None]) -> None:
    with pytest.raises(UserError, match="lower them"):
        draw_factors({"main": 300, "a": 100, "b": 600}, shares)
