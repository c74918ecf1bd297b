"""Which photos and classes an evaluation scores."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from common.annotations import AnnotatedImage, require_faces
from common.annotations.class_names import suggest_renames
from common.display import first_names
from common.errors import UserError
from common.splits import SPLITS, read_splits


def select_images(
    images: Sequence[AnnotatedImage], data: Path, splits: Path | None, split: str
) -> tuple[list[AnnotatedImage], list[str]]:
    """Return the images of one split, and notes on the images that are in no split.

    Args:
        images: all images of the dataset.
        data: the dataset's folder, for messages.
        splits: splits.csv; may be None for split "all".
        split: "train", "val", "test" or "all".

    Raises:
        UserError: the split is unknown, empty or without faces, or splits.csv lists an image of the split that the data
            lacks. A score over the rest would be the score of another split.
    """
    if split == "all":
        return list(images), []
    if split not in SPLITS:
        raise UserError(f"--split is {split!r}, must be one of {', '.join(SPLITS)}, all")
    if splits is None:
        raise UserError("give --splits FILE (made by pipeline.split), or --split all")
    sides = read_splits(splits)
    known = {image.image_id for image in images}
    missing = [i for i, side in sides.items() if side == split and i not in known]
    if missing:
        raise UserError(
            f"{splits}: {len(missing)} images of split {split} are not in {data} ({first_names(missing)}); "
            "name the data that the split was made from, or make the split again"
        )
    selected = [image for image in images if sides.get(image.image_id) == split]
    if not selected:
        raise UserError(f"{splits}: no images in split {split!r}; choose another --split or make the split again")
    require_faces(selected, f"{splits}: split {split!r}", "choose another --split or make the split again")
    stray = [i for i in sorted(known) if i not in sides]
    notes = [f"{len(stray)} images of the data are not in {splits}: {first_names(stray)}"] if stray else []
    return selected, notes


def parse_merge(pairs: Sequence[str]) -> dict[str, str]:
    """Return {"A": "B"} for "A=B".

    Raises:
        UserError: a pair has another form, or a target class is itself merged.
    """
    merge = {}
    for pair in pairs:
        source, equals, target = pair.partition("=")
        if not (source and equals and target):
            raise UserError(f"--merge {pair!r} is not of the form A=B")
        merge[source] = target
    chained = sorted(set(merge.values()) & set(merge))
    if chained:
        raise UserError(f"--merge: {chained[0]!r} is on both sides of =; name the last class at once")
    return merge


def merged_names(class_names: Sequence[str], merge: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes that are left after the merge, in their order.

    Raises:
        UserError: a target is not one of `class_names`.
    """
    names = tuple(dict.fromkeys(merge.get(name, name) for name in class_names))
    unknown = sorted(set(merge.values()) - set(class_names))
    if unknown:
        raise UserError(f"--merge: {unknown[0]!r} is not one of {', '.join(class_names)}")
    return names


def merge_classes(images: Sequence[AnnotatedImage], merge: Mapping[str, str]) -> list[AnnotatedImage]:
    """Return the images with each label replaced by the class that `merge` counts it as."""
    return [replace(image, labels=tuple(merge.get(n, n) for n in image.labels)) for image in images]


def check_classes(images: Sequence[AnnotatedImage], class_names: Sequence[str], flag: str = "--rename") -> None:
    """Refuse images with a label that is not one of `class_names`.

    Args:
        images: the images.
        class_names: the known classes.
        flag: the command's option by which a class of the data gets the name of a known one.

    Raises:
        UserError: names the first such image and its label, and the options for all such labels.
    """
    unknown = sorted({label for image in images for label in image.labels} - set(class_names))
    if not unknown:
        return
    first = next(image for image in images if not set(image.labels) <= set(class_names))
    label = next(label for label in sorted(first.labels) if label not in class_names)
    advice = rename_advice(unknown, class_names, flag)
    raise UserError(f"{first.path}: class {label!r} is not one of {', '.join(class_names)}; {advice}")


def rename_advice(unknown: Sequence[str], class_names: Sequence[str], flag: str = "--rename") -> str:
    """Return how to name the data's `unknown` classes as the detector's `class_names`, with the option's values."""
    usual = suggest_renames(unknown, class_names)
    pairs = " ".join(shlex.quote(f"{name}={usual.get(name, 'NAME')}") for name in unknown)
    where = "" if len(usual) == len(unknown) else ", where NAME is one of the detector's"
    return f"name the data's classes as the detector does with {flag} {pairs}{where}"
