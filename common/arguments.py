"""Flags of all commands: parsing into a dataclass, old names, repeated flags."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from inspect import cleandoc
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from common.errors import UserError

T = TypeVar("T")


class LazyTyro:
    """The package tyro, imported when it is first used: `parse_args` may need it only for its types."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("tyro"), name)


if TYPE_CHECKING:
    import tyro
else:
    tyro = LazyTyro()

NUMBER = re.compile(r"-\d+|-\d*\.\d+")  # no flag, but a value, as for argparse


def parse_args(
    args_type: type[T],
    argv: Sequence[str] | None,
    module: str,
    renamed: Mapping[str, str] | None = None,
    positional: str | None = None,
    **options: Any,
) -> T:
    """Return a command's arguments.

    Args:
        args_type: dataclass with a field per flag.
        argv: the arguments; None for those of the process.
        module: the command's module, for messages and the help text.
        renamed: old flags, as `refuse_renamed` takes them.
        positional: the field of type tuple that takes the arguments without a flag. Where there are no others, tyro is
            not needed, whose import takes an eighth of the time of `detect photo.jpg`.
        options: further arguments of tyro.cli, such as `description`; `prog` for another name than `module`'s.

    Raises:
        UserError: a flag has a new name.
        SystemExit: tyro printed the help text or refused a value.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if positional is not None and not any(argument.startswith("-") for argument in arguments):
        return args_type(**{positional: tuple(arguments)})
    refuse_renamed(arguments, renamed or {})
    arguments = join_repeated(arguments, set(_flags_for_several(args_type)))
    # Without a description, tyro would parse the docstring for one, which takes longer than the arguments.
    options.setdefault("description", cleandoc(args_type.__doc__ or ""))
    options.setdefault("prog", program_name(module))
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(optional_value)
    return tyro.cli(args_type, args=arguments, registry=registry, **options)


def optional_value(
    hint: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Return how a flag of type `X | None` is shown and read: as X, for tyro; None for other types.

    By tyro's own rule the help text would have "{None}|FLOAT", and a wrong value an error about NoneType.
    """
    types = get_args(hint.type)
    if hint.type_origin not in (Union, UnionType) or len(types) != 2 or NoneType not in types:
        return None
    value_type = types[0] if types[1] is NoneType else types[1]
    constructors = tyro.constructors
    spec = constructors.ConstructorRegistry.get_primitive_spec(
        constructors.PrimitiveTypeInfo.make(value_type, hint.markers)
    )
    if not isinstance(spec, constructors.PrimitiveConstructorSpec) or spec.nargs != 1 or spec.choices is not None:
        return None
    return replace(
        spec,
        # "None" undoes a default, such as one of an experiment.
        instance_from_str=lambda words: None if words == ["None"] else spec.instance_from_str(words),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
    )


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


def join_repeated(argv: Sequence[str], several: set[str]) -> list[str]:
    """Return arguments with each flag of `several` once, and all its values: `--run a b` for `--run a --run b`.

    The parser alone would keep the values of the last, and drop the others in silence.
    """
    part: list[str] = []
    parts = [part]  # a flag and what follows it
    first: dict[str, list[str]] = {}  # the part of each flag of `several`
    for k, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        flag = flag.replace("_", "-")
        if argument == "--":
            parts.append(list(argv[k:]))
            break
        if flag in several:
            if flag not in first:
                first[flag] = [flag]
                parts.append(first[flag])
            part = first[flag]
            if equals:
                part.append(value)
                part = []  # such a flag takes no further value
                parts.append(part)
        elif argument.startswith("-") and not NUMBER.fullmatch(argument):
            part = [argument]
            parts.append(part)
        else:
            part.append(argument)
    return [argument for part in parts for argument in part]


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
