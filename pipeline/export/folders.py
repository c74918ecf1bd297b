"""Writes a folder of files in one step: an earlier one of the same kind is replaced, anything else is refused.

Such a folder is replaced only where it holds nothing but what the command wrote: a user's files are never lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import UserError
from common.files import check_writable_folder, replaced_folder

FINDERS_FILE = ".DS_Store"  # the file manager of macOS writes it into each folder that it shows


@dataclass(frozen=True)
class FolderKind:
    """What an option writes."""

    flag: str  # the option that names the folder
    noun: str  # what error messages call the folder
    # Returns the files that a folder has from the command, also from an earlier version of it, as paths below the
    # folder with slashes; none where the folder is of another kind.
    written: Callable[[Path], frozenset[str]]


def check_folder(out: Path, kind: FolderKind) -> None:
    """Check that a folder can be written: it is missing or empty, or holds only what the command wrote.

    Raises:
        UserError: it holds something else, at any depth, or is a file.
        OSError: the folder cannot be made.
    """
    check_writable_folder(out.resolve().parent)
    if not out.exists():
        return
    if out.is_dir() and all(path.name == FINDERS_FILE for path in out.iterdir()):
        return
    written = kind.written(out) if out.is_dir() else frozenset()
    if not written:
        raise UserError(f"{kind.flag} {out}: exists and is not {kind.noun} of this command; name another folder")
    if (other := next(_others(out, written), None)) is not None:
        raise UserError(f"{kind.flag} {out}: also has {other}, which would be lost; move it, or name another folder")


def _others(out: Path, written: frozenset[str]) -> Iterator[str]:
    """Yield the paths below a folder, files and folders, that are not of these files."""
    folders = {parent.as_posix() for name in written for parent in PurePosixPath(name).parents}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        expected = folders if path.is_dir() and not path.is_symlink() else written
        if name not in expected and path.name != FINDERS_FILE:
            yield name


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
