"""Flags: old names, flags that are given twice, and the name of the program."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import tyro

from common.arguments import parse_args, program_name, refuse_renamed
from common.errors import UserError


@dataclass(frozen=True)
class Recipe:
    teachers: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Args:
    data: tuple[str, ...] = ()
    out: str = ""
    allow: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)


@pytest.mark.parametrize(
    "argv",
    [
        ["--data", "a", "--data", "b"],
        ["--data=a", "--out", "x", "--data", "b", "c"],
        ["--teachers", "a", "--teachers=b"],
    ],
)
def test_a_flag_for_several_values_that_is_given_twice_is_refused(argv: list[str]) -> None:
    flag = argv[0].partition("=")[0]
    with pytest.raises(UserError, match=f"{flag}: is given twice; give all its values after one {flag}"):
        parse_args(Args, argv, "pipeline.x")


def test_other_flags_may_be_given_twice() -> None:
    argv = ["--data", "a", "b", "--out", "x", "--out", "y", "--allow", "p", "--allow", "q", "--size", "1", "2"]
    args = parse_args(Args, argv, "pipeline.x")
    assert args == Args(("a", "b"), "y", ("p", "q"), Recipe(size=(1, 2)))


def test_a_renamed_flag_is_refused_before_the_parser_sees_it() -> None:
    with pytest.raises(UserError, match="--work: has a new name; use --work-dir"):
        parse_args(Args, ["--work", "x"], "pipeline.x", {"--work": "--work-dir"})


@pytest.mark.parametrize("argument", ["--work", "--work=runs"])
def test_a_renamed_flag_is_refused(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = {"--work": "--work-dir"}
    message = "--work: has a new name; use --work-dir"
    refuse_renamed(["--work-dir", "runs", "--workers", "2"], renamed)
    with pytest.raises(UserError, match=message):
        refuse_renamed(["--out", "x", argument], renamed)
    monkeypatch.setattr("sys.argv", ["train_all", argument])
    with pytest.raises(UserError, match=message):
        refuse_renamed(None, renamed)


@pytest.mark.parametrize("given", [["--augment", "own"], ["--augment=own"]])
def test_a_renamed_value_is_refused(given: list[str]) -> None:
    renamed = {"--augment own": "--augment opencv"}
    refuse_renamed(["--augment", "opencv", "--name", "own"], renamed)
    with pytest.raises(UserError, match="--augment own: has a new name; use --augment opencv"):
        refuse_renamed(given, renamed)


def test_the_program_name_is_what_the_user_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/project/pipeline/detect/__main__.py"])
    assert program_name("pipeline.detect") == "python -m pipeline.detect"
    monkeypatch.setattr("sys.argv", ["facemask detect"])
    assert program_name("pipeline.detect") == "facemask detect"
