"""Writes a folder of files in one step: an earlier one of the same kind is replaced, anything else is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import UserError
from common.files import check_writable_folder, replaced_folder


@dataclass(frozen=True)
class FolderKind:
    """What an option writes."""

    flag: str  # the option that names the folder
    noun: str  # what error messages call the folder
    is_own: Callable[[Path], bool]  # whether a folder that is there is of this kind
    names: frozenset[str]  # of all that may be in such a folder; one with anything else is not replaced


def check_folder(out: Path, kind: FolderKind) -> None:
    """Check that a folder can be written: it is missing or empty, or of the same kind.

    Raises:
        UserError: it holds something else, or is a file.
        OSError: the folder cannot be made.
    """
    check_writable_folder(out.resolve().parent)
    if not out.exists():
        return
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not out.is_dir() or (found and not kind.is_own(out)):
        raise UserError(f"{kind.flag} {out}: exists and is not {kind.noun} of this command; name another folder")
    if others := [name for name in found if name not in kind.names]:
        raise UserError(f"{kind.flag} {out}: also has {others[0]}, which would be lost; name another folder")


def write_folder(out: Path, files: Mapping[str, bytes], kind: FolderKind) -> None:
    """Write the files into a folder in one step; an earlier one of the same kind is replaced.

    Args:
        out: the folder.
        files: contents by path below it, with slashes.
        kind: what the folder is.

    Raises:
        UserError: see check_folder.
        OSError: a file cannot be written; what was there stays.
    """
    check_folder(out, kind)
    with replaced_folder(out) as folder:
        for name, data in files.items():
            path = folder / PurePosixPath(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
