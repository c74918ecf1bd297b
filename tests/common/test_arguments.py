"""Flags: old names, repeated flags, and the name of the program."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro

from common import arguments
from common.arguments import join_repeated, parse_args, program_name, refuse_renamed
from common.errors import UserError
from pipeline.detect.args import DetectArgs


@dataclass(frozen=True)
class Recipe:
    teachers: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Args:
    data: tuple[str, ...] = ()
    out: str = ""
    numbers: tuple[float, ...] = ()
    allow: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--data", "a", "--data", "b", "c"], Args(data=("a", "b", "c"))),
        (["--data=a", "--out", "x", "--data", "b"], Args(data=("a", "b"), out="x")),
        (["--teachers", "a", "--data", "d", "--teachers=b"], Args(data=("d",), recipe=Recipe(("a", "b")))),
        (["--numbers", "-1", "--numbers", "-.5", "2"], Args(numbers=(-1, -0.5, 2))),
        (["--data", "--data", "a"], Args(data=("a",))),
        (["--out", "x", "--out", "y", "--allow", "p", "--allow", "q"], Args(out="y", allow=("p", "q"))),
        (["--size", "1", "2", "--size", "3", "4"], Args(recipe=Recipe(size=(3, 4)))),
    ],
)
def test_all_values_of_a_repeated_flag_are_kept(argv: list[str], expected: Args) -> None:
    assert parse_args(Args, argv, "pipeline.x") == expected


@pytest.mark.parametrize(
    ("argv", "joined"),
    [
        (
            ["me.jpg", "--data", "a", "-o", "x", "--data=b", "you.jpg"],
            ["me.jpg", "--data", "a", "b", "-o", "x", "you.jpg"],
        ),
        (["--data", "a", "--", "--data", "b"], ["--data", "a", "--", "--data", "b"]),
        (["--my_data", "a", "--my-data", "b"], ["--my-data", "a", "b"]),
        ([], []),
    ],
)
def test_other_arguments_keep_their_places(argv: list[str], joined: list[str]) -> None:
    assert join_repeated(argv, {"--data", "--my-data"}) == joined


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


@pytest.mark.parametrize(
    "argv", [["a.jpg"], [], ["b c.png", "*.jpg", "None", "True", "", "rtsp://camera:554/1", "ü.webp", "a=b", "data"]]
)
def test_arguments_without_a_flag_are_read_as_tyro_reads_them(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    by_tyro = parse_args(DetectArgs, argv, "pipeline.x")
    monkeypatch.setattr(arguments, "tyro", None)
    assert parse_args(DetectArgs, argv, "pipeline.x", positional="paths") == by_tyro


@pytest.mark.parametrize("argv", [["a.jpg", "--no-boxes"], ["--no-boxes", "a.jpg"], ["--no-boxes", "--", "a.jpg"]])
def test_arguments_with_a_flag_are_read_by_tyro(argv: list[str]) -> None:
    assert parse_args(DetectArgs, argv, "pipeline.x", positional="paths") == DetectArgs(("a.jpg",), boxes=False)


@dataclass(frozen=True)
class OptionalArgs:
    score: float | None = None
    out: Path | None = Path("runs")
    words: Literal["a", "b"] | None = None


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], OptionalArgs()),
        (["--score", "-1.5", "--out", "x", "--words", "b"], OptionalArgs(-1.5, Path("x"), "b")),
        (["--out", "None"], OptionalArgs(out=None)),
    ],
)
def test_a_value_that_may_be_absent(argv: list[str], expected: OptionalArgs) -> None:
    assert parse_args(OptionalArgs, argv, "pipeline.x") == expected


@pytest.mark.parametrize("argv", [["--score", "high"], ["--help"]])
def test_the_type_of_a_value_that_may_be_absent_is_shown_alone(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_args(OptionalArgs, argv, "pipeline.x")
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "--score FLOAT" in shown
    assert not any(word in shown for word in ("{None}|FLOAT", "{None}|PATH", "NoneType"))
