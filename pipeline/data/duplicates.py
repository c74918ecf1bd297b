"""Finds photos that show the same picture or scene: exact copies, re-encodings, re-crops, near-identical shots.

Two kinds of evidence. A perceptual hash (imagehash.phash, 64 bits) of the whole photo finds copies and light
crops. Stronger crops change it beyond use (true pairs at 20 to 34 bits, where unrelated pairs start at 10), so
ORB features (Rublee et al. 2011) find the rest: photos that share many near-equal descriptors are candidates, and a
candidate counts when one similarity transform (RANSAC) explains enough of the matches.

The limits below were set by eye on 674 photos of the Kaggle "Face Mask Detection" set, all pairs of which were
matched once: the 17 pairs within 8 bits all show the same scene, and the first unrelated pair stands at 10; every pair
with 5 or more inliers is a re-crop, a shot of one series or the same person again; unrelated pairs begin at 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from common.cli import progress, requires_extra
from common.errors import MediaError
from common.images import read_image
from common.parallel import map_jobs

HASH_BITS = 8  # whole-photo hashes that differ in so few of their 64 bits are of the same picture
HASH_CANDIDATE_BITS = 14  # and in so few, worth comparing in full
MIN_INLIERS = 5  # matches that one similarity transform must explain
SIDE = 400  # pixels of the longer side at which features are taken
FEATURES = 300  # a photo
MATCH_BITS = 48  # of 256: farthest descriptor that still matches
MATCH_RATIO = 0.75  # best against second best match (Lowe 2004)
FIT_PIXELS = 4.0  # farthest that a match may lie from the transform
MAX_SCALE = 4.0  # a re-crop enlarged more than this leaves too few pixels to compare

# Candidates by locality-sensitive hashing with sampled bits (Indyk & Motwani 1998): descriptors equal in one
# table's bits collide, photos with enough collisions are compared in full.
TABLES = 40
TABLE_BITS = 40
NEIGHBOURS = 8  # in a table's order; commonplace texture fills longer runs and tells nothing
MIN_COLLISIONS = 3

ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{16,}")  # a picture's name in its exports

PARALLEL_FROM = 64  # photos; for fewer, starting processes takes longer than the work


@dataclass(frozen=True)
class Print:
    """What is kept of a photo: its hash (64 bool), feature descriptors (N, 32) uint8, their points (N, 2) px."""

    hash: NDArray[np.bool_]
    descriptors: NDArray[np.uint8]
    points: NDArray[np.float32]


@dataclass(frozen=True)
class Duplicates:
    """groups: one number a photo, equal where photos show the same, counted from 0 in order of appearance.

    unreadable: (index of the photo, why it cannot be read); such a photo stands in a group of its own.
    """

    groups: list[int]
    unreadable: list[tuple[int, str]]


def near_duplicate_groups(photos: Sequence[Path], workers: int = 2) -> Duplicates:
    """Groups photos that show the same picture or scene.

    Time grows with the photos and the candidate pairs, not with all pairs. The result is the same each time.
    Raises UserError when imagehash is not installed.
    """
    with requires_extra("train"):
        import imagehash  # noqa: F401  one clear line here, not a traceback from a process
    prints: list[Print | None] = []
    unreadable = []
    with progress() as bar:
        for i, found in enumerate(bar.track(_prints(photos, workers), len(photos), description="comparing photos")):
            if isinstance(found, str):
                unreadable.append((i, found))
            prints.append(None if isinstance(found, str) else found)
    usable = [i for i, found in enumerate(prints) if found is not None]
    kept = [found for found in prints if found is not None]
    joined = [(usable[a], usable[b]) for a, b in same_scenes(kept)] + same_source(photos)
    return Duplicates(group_numbers(len(photos), joined), unreadable)


def same_scenes(prints: Sequence[Print]) -> list[tuple[int, int]]:
    """The pairs (i < j) of photos that show the same, in order."""
    same = set(_close_hashes(prints, HASH_BITS))
    worth_comparing = {*_close_hashes(prints, HASH_CANDIDATE_BITS), *_candidates(prints)} - same
    same |= {(a, b) for a, b in worth_comparing if inliers(prints[a], prints[b]) >= MIN_INLIERS}
    return sorted(same)


def same_source(photos: Sequence[Path]) -> list[tuple[int, int]]:
    """Pairs of photos that Roboflow augmented from one: NAME.rf.HASH.jpg with an equal NAME."""
    first: dict[str, int] = {}
    pairs = []
    for i, photo in enumerate(photos):
        found = ROBOFLOW.fullmatch(photo.stem)
        if found and first.setdefault(found[1], i) != i:
            pairs.append((first[found[1]], i))
    return pairs


def group_numbers(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Numbers the connected parts of `count` items joined by `pairs`, in order of first appearance."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        parent[root(b)] = root(a)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(count)]


def inliers(a: Print, b: Print) -> int:
    """How many places of photo `a` one shift, turn and scaling carries onto their match in `b`."""
    if min(len(a.descriptors), len(b.descriptors)) < 2:
        return 0
    matches = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(a.descriptors, b.descriptors, k=2)
    good = [m for m, second in matches if m.distance < MATCH_BITS and m.distance < MATCH_RATIO * second.distance]
    if len(good) < MIN_INLIERS:
        return 0
    source = a.points[[m.queryIdx for m in good]]
    target = b.points[[m.trainIdx for m in good]]
    transform, mask = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=FIT_PIXELS)
    if transform is None:
        return 0
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if not 1 / MAX_SCALE <= scale <= MAX_SCALE:
        return 0
    # ORB finds a corner again on several levels of its pyramid; each place counts once.
    fits = mask.ravel().astype(bool)
    return min(len(np.unique(np.round(points[fits] / FIT_PIXELS), axis=0)) for points in (source, target))


def _prints(photos: Sequence[Path], workers: int) -> Iterator[Print | str]:
    yield from map_jobs(take_print, photos, workers if len(photos) >= PARALLEL_FROM else 1, chunksize=8)


def take_print(photo: Path) -> Print | str:
    """The photo's print, or why it cannot be read."""
    import imagehash
    from PIL import Image

    cv2.setNumThreads(1)
    try:
        pixels = read_image(photo)
    except MediaError as error:
        return error.what
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    bits = imagehash.phash(Image.fromarray(grey)).hash.ravel()
    scale = SIDE / max(grey.shape)
    size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    points, descriptors = cv2.ORB.create(FEATURES).detectAndCompute(grey, None)
    if descriptors is None:
        return Print(bits, np.zeros((0, 32), np.uint8), np.zeros((0, 2), np.float32))
    return Print(bits, descriptors.astype(np.uint8, copy=False), np.array([p.pt for p in points], np.float32))


def _close_hashes(prints: Sequence[Print], bits: int) -> Iterator[tuple[int, int]]:
    if not prints:
        return
    signs = np.stack([p.hash for p in prints]).astype(np.float32) * 2 - 1
    for i, row in enumerate(signs):
        # Of 64 signs, d that differ give the product 64 - 2d.
        for j in np.flatnonzero(signs[i + 1 :] @ row >= row.size - 2 * bits):
            yield i, i + 1 + int(j)


def _candidates(prints: Sequence[Print]) -> list[tuple[int, int]]:
    """Pairs (i < j) of photos with MIN_COLLISIONS or more descriptor collisions over all tables."""
    owners = np.repeat(np.arange(len(prints)), [len(p.descriptors) for p in prints])
    if len(owners) == 0:
        return []
    descriptors = np.concatenate([p.descriptors for p in prints])
    rng = np.random.default_rng(0)
    found = []
    for _ in range(TABLES):
        keys = np.zeros(len(owners), np.int64)
        for bit in rng.choice(8 * descriptors.shape[1], TABLE_BITS, replace=False):
            keys = (keys << 1) | ((descriptors[:, bit // 8] >> (bit % 8)) & 1)
        order = np.argsort(keys, kind="stable")
        keys, owner = keys[order], owners[order]
        for step in range(1, NEIGHBOURS + 1):
            hit = (keys[:-step] == keys[step:]) & (owner[:-step] != owner[step:])
            # Equal keys keep the order of their owners, so the left one is the smaller.
            found.append(owner[:-step][hit] * len(prints) + owner[step:][hit])
    pairs, counts = np.unique(np.concatenate(found), return_counts=True)
    return [(int(p) // len(prints), int(p) % len(prints)) for p in pairs[counts >= MIN_COLLISIONS]]
