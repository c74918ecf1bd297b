"""Reads a source's file of pairs: which of its photos are photos of the main source at another size."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from common.annotations import AnnotatedImage
from common.annotations.photos import AmbiguousNameError, PhotoIndex
from common.display import counted
from common.errors import UserError


def read_twins(
    file: Path, own: Iterable[AnnotatedImage], own_root: Path, main: Iterable[AnnotatedImage], main_root: Path
) -> tuple[dict[str, str], str]:
    """Read pairs of photos: a name in the source, and a name in the main source, with or without folders.

    Args:
        file: CSV with two columns and no header.
        own: images of the source.
        own_root: its folder; folders below it count in names.
        main: images of the main source.
        main_root: its folder.

    Returns:
        {image id: image id in the main source}, and a note on pairs that are not in the data, "" where there are none.

    Raises:
        UserError: the file cannot be read, a name fits several photos, or no pair is in the data.
    """
    ids = [{image.path: image.image_id for image in images} for images in (own, main)]
    roots = [root if root.is_dir() else root.parent for root in (own_root, main_root)]
    indices = [PhotoIndex(photos, root) for photos, root in zip(ids, roots, strict=True)]
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as CSV ({error}); check `twins` in the file of sources") from error
    found, lost = {}, 0
    for line, row in rows:
        if len(row) < 2:
            raise UserError(f"{file}, line {line}: needs two names of photos; correct it")
        try:
            mine, theirs = (index.find(name) for index, name in zip(indices, row, strict=False))
        except AmbiguousNameError as error:
            raise UserError(f"{file}, line {line}: {error}") from error
        if mine is None or theirs is None:
            lost += 1
        else:
            found[ids[0][mine]] = ids[1][theirs]
    if not found:
        raise UserError(f"{file}: none of its {len(rows)} pairs is in the data; check the names")
    return found, f"note: {file}: {counted(lost, 'pair')} of {len(rows)} not in the data" if lost else ""
