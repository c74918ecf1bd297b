"""Flags of all commands: parsing into a dataclass, old names, and flags that would silently drop a value."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from common.errors import UserError

T = TypeVar("T")


def parse_args(
    args_type: type[T],
    argv: Sequence[str] | None,
    module: str,
    renamed: Mapping[str, str] | None = None,
    **options: Any,
) -> T:
    """Return a command's arguments.

    Args:
        args_type: dataclass with a field per flag.
        argv: the arguments; None for those of the process.
        module: the command's module, for messages and the help text.
        renamed: old flags, as `refuse_renamed` takes them.
        options: further arguments of tyro.cli, such as `description`.

    Raises:
        UserError: a flag has a new name, or a flag for several values is given twice.
        SystemExit: tyro printed the help text or refused a value.
    """
    refuse_renamed(argv, renamed or {})
    refuse_repeated(argv, set(_flags_for_several(args_type)))
    return tyro.cli(args_type, args=argv, prog=program_name(module), **options)


def program_name(module: str) -> str:
    """Return what the user typed to start the command in `module`: "facemask detect" or "python -m pipeline.detect"."""
    return sys.argv[0] if sys.argv[0].startswith("facemask ") else f"python -m {module}"


def refuse_renamed(argv: Sequence[str] | None, renamed: Mapping[str, str]) -> None:
    """Raise UserError for an old flag.

    Args:
        argv: the command's arguments; None for those of the process.
        renamed: maps the old flag, or "flag value", to the new one, each with its dashes.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, _, value = argument.partition("=")
        for old in (flag, f"{flag} {value or following}"):
            if old in renamed:
                raise UserError(f"{old}: has a new name; use {renamed[old]}")


def refuse_repeated(argv: Sequence[str] | None, several: set[str]) -> None:
    """Raise UserError for a flag of `several` that is given twice: the parser would drop the first one's values."""
    given: set[str] = set()
    for argument in sys.argv[1:] if argv is None else argv:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in several and flag in given:
            raise UserError(f"{flag}: is given twice; give all its values after one {flag}")
        given.add(flag)


def _flags_for_several(args_type: type) -> Iterator[str]:
    """Yield the flags of a dataclass that take any number of values, without those that may be repeated."""
    hints = get_type_hints(args_type, include_extras=True)
    for field in fields(args_type):
        hint, marks = hints[field.name], list[Any]()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _flags_for_several(hint)
        elif get_origin(hint) is tuple and Ellipsis in get_args(hint) and tyro.conf.UseAppendAction not in marks:
            yield f"--{field.name.replace('_', '-')}"
