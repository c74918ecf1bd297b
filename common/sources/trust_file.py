"""Reads sources.yaml: what may be learned from each dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.annotations.source import Source
from common.cli import requires_extra
from common.errors import UserError

# Fields of Source that the file sets, with the type of their values.
TYPES: dict[str, type] = {
    **{"edges": str, "background": bool, "face_free": bool, "share": float, "twins": str, "left_out": str},
    **{"classes": list, "absent_classes": list, "rename": list},
}
WORDS = {str: "a text", bool: "true or false", float: "a number", list: "a list of texts"}


def read_trust_file(file: Path) -> dict[str, dict[str, Any]]:
    """Return {source name: fields of Source} of a sources.yaml.

    Paths in the file are relative to the dataset's folder for `twins`, and to the file for `left_out`.

    Raises:
        UserError: the file cannot be read, is not YAML, has a key twice or an unknown field, or a value is of another
            type.
    """
    with requires_extra("train"):
        import yaml
    try:
        text = file.read_text(encoding="utf-8-sig")
        _refuse_repeated_keys(file, yaml.compose(text, Loader=yaml.SafeLoader))
        content = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise UserError(f"{file}: does not exist; check --sources") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file}: malformed YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{file}: is not a table from source to what may be learned; see docs/sources.md")
    return {str(name): _checked_fields(file, str(name), values or {}) for name, values in content.items()}


def _refuse_repeated_keys(file: Path, node: Any) -> None:
    """Raise UserError where a table of the file has a key twice: YAML would silently take the last one."""
    if node is None or node.id != "mapping":
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.id != "scalar":
            continue  # a list or table as a key: safe_load refuses it
        if key.value in seen:
            line = key.start_mark.line + 1
            raise UserError(f"{file}: has `{key.value}:` twice, again on line {line}; remove one")
        seen.add(key.value)
        _refuse_repeated_keys(file, value)


def _checked_fields(file: Path, name: str, values: Any) -> dict[str, Any]:
    """Return one source's fields, with tuples for lists and paths for files."""
    if not isinstance(values, Mapping):
        raise UserError(f"{file}: {name}: is not a table; write `{name}: {{share: 0.2}}`")
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in TYPES:
            raise UserError(f"{file}: {name}: unknown field {key!r}; use {', '.join(TYPES)}")
        wanted = TYPES[key]
        fits = (
            isinstance(value, int | float) and not isinstance(value, bool)
            if wanted is float
            else isinstance(value, wanted)
        )
        if not fits or (wanted is list and not all(isinstance(part, str) for part in value)):
            raise UserError(f"{file}: {name}: {key} is {value!r}, must be {WORDS[wanted]}")
        checked[key] = tuple(value) if wanted is list else value
    if "left_out" in checked:
        checked["left_out"] = file.parent / checked["left_out"]
    assert checked.keys() <= {field.name for field in fields(Source)}
    return checked
