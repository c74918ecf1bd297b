"""Reads several datasets as one: the main one, and others that are only learned from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations.collect import relative_name
from common.annotations.loading import Log, load_dataset, warn
from common.annotations.options import ReadingArgs
from common.annotations.photos import header_size, photos_in
from common.annotations.source import Source, draw_factors
from common.annotations.types import AnnotatedImage, Annotations, Problem
from common.display import printable
from common.errors import MediaError, UserError
from common.sources.doubtful import check_names, read_doubtful, without_doubtful
from common.sources.options import SourcesArgs
from common.sources.trust_file import read_trust_file
from common.sources.twins import read_twins


def load_sources(args: SourcesArgs, log: Log = warn) -> Annotations:
    """Read the datasets of a command's arguments.

    One folder without a file of sources is read exactly as `load_dataset` does. Otherwise the images have their
    source's name, and those of all but the main dataset have it before their image ids, as in "ilc/photo7".

    Args:
        args: the folders, the file of sources and the options of reading.
        log: gets each line on problems and facts.

    Raises:
        UserError: a dataset or the file of sources cannot be used, or a class is not among the main dataset's.
    """
    if len(args.data) == 1 and args.sources is None:
        return load_dataset(args.main_data, args, log)
    sources = describe_sources(args.data, args.sources, log)
    if sources[0].face_free:
        raise UserError(
            f"{args.main_data}: the first --data is split and tested, and needs faces; give others after it"
        )
    with_faces = [source for source in sources if not source.face_free]
    draw_factors({each.name: 1 for each in with_faces}, {each.name: each.share for each in with_faces})
    read = [_load(source, args, log) for source in sources]
    main = read[0]
    for source, found in zip(sources, read, strict=True):
        labels = {label for image in found.images for label in image.labels}  # a mask class may be without faces
        if strange := [name for name in found.class_names if name in labels and name not in main.class_names]:
            names = ", ".join(main.class_names)
            fix = f"map it with `rename: [{strange[0]}=NAME]` in the file of sources"
            raise UserError(f"{source.data}: class {strange[0]!r} is not among the main data's ({names}); {fix}")
        _check_classes(source, labels, main.class_names)
    twins: dict[str, str] = {}
    for source, found in zip(sources, read, strict=True):
        if source.twins is not None:
            pairs, note = read_twins(source.twins, found.images, source.data, main.images, args.main_data)
            twins |= pairs
            if note:
                log(printable(note))
    images = [image for part in read for image in part.images]
    _check_unique(images)
    return Annotations(
        tuple(sorted(images, key=lambda image: image.image_id)),
        main.class_names,
        problems=_joined(part.problems for part in read),
        clipped_boxes=sum(part.clipped_boxes for part in read),
        notes=_joined(part.notes for part in read),
        unlabelled=_joined(part.unlabelled for part in read),
        format_name=", ".join(dict.fromkeys(part.format_name for part in read if part.format_name)),
        clipped_in=_joined(part.clipped_in for part in read),
        sources=tuple(sources),
        twins=twins,
    )


def _check_classes(source: Source, labels: Set[str], class_names: Sequence[str]) -> None:
    """Raise UserError when the file names a class that the main data lacks, or an absent class that has faces."""
    for field, names in (("classes", source.classes or ()), ("absent_classes", source.absent_classes)):
        for name in names:
            entry = f"source {source.name}: {field}: {name!r}"
            if name not in class_names:
                raise UserError(f"{entry} is not among the main data's classes ({', '.join(class_names)}); correct it")
            if field == "absent_classes" and name in labels:
                raise UserError(f"{entry} is a label of its faces; remove it from absent_classes")


def main_part(annotations: Annotations) -> Annotations:
    """Return the annotations with the images of the main source alone."""
    if not annotations.sources:
        return annotations
    main = annotations.sources[0].name
    return replace(annotations, images=tuple(image for image in annotations.images if image.source == main))


def describe_sources(data: Sequence[Path], file: Path | None, log: Log | None = None) -> list[Source]:
    """Return each folder's source, by the folder's name in the file; a folder that is not in it is fully trusted.

    `log` gets a note of each name in the file that is no folder's.

    Raises:
        UserError: two folders have one name, or the file is malformed.
    """
    trust = {} if file is None else read_trust_file(file)
    sources: list[Source] = []
    for folder in data:
        name = folder.resolve().name
        if any(source.name == name for source in sources):
            raise UserError(f"--data: two folders are named {name!r}; rename one, or give it once")
        given: dict[str, Any] = dict(trust.get(name, {}))
        if "twins" in given:
            given["twins"] = folder / given["twins"]
        sources.append(Source(name, folder, **given))
    names = {source.name for source in sources}
    for name in trust:
        if name not in names and log is not None:
            log(f"note: {printable(str(file))}: {name!r} is no folder of --data; it changes nothing")
    return sources


def _joined(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(item for part in parts for item in part)


def _load(source: Source, args: SourcesArgs, log: Log) -> Annotations:
    """Read one dataset, with its trust in its images."""
    if source.face_free:
        found = _face_free_images(source)
    else:
        rename = (*args.rename, *source.rename) if source.data == args.main_data else source.rename
        found = load_dataset(source.data, ReadingArgs(rename=rename, unlabelled=args.unlabelled), log)
    doubtful = {} if source.left_out is None else read_doubtful(source.left_out)
    if source.left_out is not None:
        check_names(source.left_out, doubtful, {image.image_id for image in found.images})
    prefix = "" if source.data == args.main_data else f"{source.name}/"
    images = []
    for image in found.images:
        known = np.array([source.trusts(label) for label in image.labels], bool)
        trusted = replace(
            image,
            source=source.name,
            class_known=known,
            complete=image.complete and source.background,
            source_incomplete=image.complete and not source.background,
        )
        if source.left_out is not None:
            trusted = without_doubtful(trusted, doubtful.get(image.image_id, ()), source.left_out)
        images.append(replace(trusted, image_id=f"{prefix}{image.image_id}"))
    unlabelled, clipped_in = (tuple(f"{prefix}{i}" for i in ids) for ids in (found.unlabelled, found.clipped_in))
    return replace(found, images=tuple(images), unlabelled=unlabelled, clipped_in=clipped_in)


def _face_free_images(source: Source) -> Annotations:
    """Return the photos of a folder, each without faces; annotation files in the folder are not read."""
    sizes: dict[Path, tuple[int, int]] = {}
    problems = []
    for photo in photos_in(source.data, recursive=True):
        try:
            sizes[photo] = header_size(photo).upright
        except MediaError as error:
            problems.append(Problem(photo, f"{error.reason}; left out"))
    names = [relative_name(photo, source.data) for photo in sizes]
    ids = [name.with_suffix("").as_posix() for name in names]
    if len(set(ids)) < len(ids):  # a.jpg and a.png
        ids = [name.as_posix() for name in names]
    images = [
        AnnotatedImage(photo, image_id, sizes[photo], (), ())  # type: ignore[arg-type]
        for photo, image_id in zip(sizes, ids, strict=True)
    ]
    if not images:
        raise UserError(f"{source.data}: holds no photo that can be read; check the folder")
    return Annotations(tuple(images), (), tuple(problems))


def _check_unique(images: Iterable[AnnotatedImage]) -> None:
    """Raise UserError when an image of one source has the id of another source's."""
    seen: dict[str, Path] = {}
    for image in images:
        if image.image_id in seen:
            raise UserError(f"{image.path}: has the id of {seen[image.image_id]}; rename a folder of the data")
        seen[image.image_id] = image.path
