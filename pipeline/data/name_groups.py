"""Group photos by a part of their names, such as the camera, the video or the person."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.annotations import AnnotatedImage
from common.display import path_text
from common.errors import UserError

MAX_NAMES = 3  # photos or groups in a message


def name_groups(images: Sequence[AnnotatedImage], root: Path, pattern: str) -> list[str]:
    """Return the group of each image: what `pattern` finds in its id, or else in its path.

    The ids are searched if the pattern is found in all of them. Otherwise the paths are.

    Args:
        images: the dataset's images.
        root: the dataset; paths are relative to it.
        pattern: regular expression. The group is what its first parenthesis matched, or else the whole match.

    Raises:
        UserError: the pattern is not a regular expression, or is not found in all ids or in all paths.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"--group-by {pattern!r}: is not a regular expression ({error}); correct it") from error
    by_id = [_find(compiled, image.image_id) for image in images]
    by_path = by_id if None not in by_id else [_find(compiled, _relative(image.path, root)) for image in images]
    found = by_id if by_id.count(None) <= by_path.count(None) else by_path
    names = [name for name in found if name is not None]
    if len(names) < len(images):
        missing = [image.image_id for image, name in zip(images, found, strict=True) if name is None]
        raise UserError(
            f"--group-by {pattern!r}: is not in the names of {len(missing)} of {len(images)} photos, e.g. "
            f"{', '.join(missing[:MAX_NAMES])}; use a pattern that is in each photo's id or path"
        )
    return names


def _find(pattern: re.Pattern[str], text: str) -> str | None:
    """Return what the first parenthesis matched, or else the whole match; None without a match."""
    match = pattern.search(text)
    if match is None:
        return None
    found: str | None = match[1] if pattern.groups else match[0]
    return found


def _relative(path: Path, root: Path) -> str:
    """Return a photo's path inside the dataset, with slashes."""
    folder = root if root.is_dir() else root.parent
    return path_text((path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix())


def shown_groups(names: Sequence[str]) -> str:
    """Return the number of groups and the first of them with their photos, for a message."""
    groups = list(dict.fromkeys(names))
    first = ", ".join(f"{group!r} ({names.count(group)})" for group in groups[:MAX_NAMES])
    return f"{len(groups)} groups: {first}{', ...' if len(groups) > MAX_NAMES else ''}"
