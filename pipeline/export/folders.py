"""Writes a folder of files in one step: an earlier one of the same kind is replaced, anything else is refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import UserError
from common.files import check_writable_folder, with_file_name


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
    out = out.resolve()  # a link stays a link
    out.parent.mkdir(parents=True, exist_ok=True)
    with with_file_name(out):
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    new, old = temporary / "new", temporary / "old"
    try:
        with with_file_name(out):
            for name, data in files.items():
                path = new / PurePosixPath(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        try:
            if out.exists():
                out.replace(old)
            new.replace(out)
        except BaseException:  # Ctrl-C, too
            if old.exists() and not out.exists():
                old.replace(out)
            raise
    finally:
        shutil.rmtree(temporary if out.exists() or not old.exists() else new, ignore_errors=True)
