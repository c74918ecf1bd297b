"""Find photos of the same picture or scene: exact copies, re-encodings, re-crops, near-identical shots.

There are two kinds of evidence. A perceptual hash (imagehash.phash, 64 bits) of the whole photo finds copies and
light crops. Stronger crops change the hash too much: true pairs differ in 20 to 34 bits, unrelated pairs from 10 on.
ORB features (Rublee et al. 2011) find these pairs. Photos that share many similar descriptors are candidates. A
candidate pair counts when one similarity transform (RANSAC) explains enough of its matches.

The limits were set by eye on all pairs of 674 photos of the Kaggle "Face Mask Detection" set. The 17
pairs within 8 bits show the same scene; the first unrelated pair has 10. Every pair with 5 or more inliers is a
re-crop, a shot of one series or the same person; unrelated pairs have 4 at most.
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
from common.processes import map_jobs

HASH_BITS = 8  # of 64: hashes that differ in at most this many bits are of the same picture
HASH_CANDIDATE_BITS = 14  # hashes that differ in at most this many bits are compared in full
MIN_INLIERS = 5  # matches that one similarity transform must explain
FEATURE_SIDE = 400  # pixels of the longer side at which features are taken
ORB_FEATURES = 300  # per photo
MATCH_BITS = 48  # of 256: two descriptors match below this distance
MATCH_RATIO = 0.75  # best against second best match (Lowe 2004)
FIT_PIXELS = 4.0  # largest distance of a match from the transform
MAX_SCALE = 4.0  # a re-crop enlarged more than this leaves too few pixels to compare

# Candidates by locality-sensitive hashing with sampled bits (Indyk & Motwani 1998): descriptors collide when all bits
# of one table are equal. Photos with enough collisions are compared in full.
LSH_TABLES = 40
LSH_BITS = 40
NEIGHBOURS = 8  # in a table's order; longer runs are common texture
MIN_COLLISIONS = 3

ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{16,}")  # a picture's name in Roboflow's exports
PARALLEL_FROM = 64  # photos; with fewer, starting processes takes longer than the work


@dataclass(frozen=True)
class PhotoFingerprint:
    """What photos are compared by."""

    hash: NDArray[np.bool_]  # (64,) perceptual hash of the whole photo
    descriptors: NDArray[np.uint8]  # (N, 32) ORB descriptors
    points: NDArray[np.float32]  # (N, 2) where they are, in pixels of the photo at SIDE


@dataclass(frozen=True)
class Duplicates:
    """Result of `near_duplicate_groups`."""

    groups: list[int]  # one number per photo, equal where photos show the same; counted from 0 in order of appearance
    unreadable: list[tuple[int, str]]  # (index of the photo, why it cannot be read); such a photo is alone in its group


def near_duplicate_groups(photos: Sequence[Path], workers: int = 2) -> Duplicates:
    """Group photos that show the same picture or scene.

    Time grows with the number of photos and of candidate pairs, not of all pairs. The result is deterministic.

    Args:
        photos: files.
        workers: number of processes.

    Raises:
        UserError: imagehash is not installed.
    """
    with requires_extra("train"):
        import imagehash  # noqa: F401 (missing: one line here, no traceback from a process)
    workers = workers if len(photos) >= PARALLEL_FROM else 1
    with progress() as bar:
        work = map_jobs(fingerprint_photo, photos, workers, chunksize=8)
        results = list(enumerate(bar.track(work, len(photos), description="comparing photos")))
    unreadable = [(i, found) for i, found in results if isinstance(found, str)]
    readable = {i: found for i, found in results if not isinstance(found, str)}
    usable = list(readable)
    scenes = same_scene_pairs(list(readable.values()))
    joined = [(usable[a], usable[b]) for a, b in scenes] + same_source_pairs(photos)
    return Duplicates(connected_components(len(photos), joined), unreadable)


def same_scene_pairs(fingerprints: Sequence[PhotoFingerprint]) -> list[tuple[int, int]]:
    """Return the sorted pairs (i < j) of photos that show the same scene."""
    same = set(_close_hashes(fingerprints, HASH_BITS))
    worth_comparing = {*_close_hashes(fingerprints, HASH_CANDIDATE_BITS), *_candidates(fingerprints)} - same
    same |= {(a, b) for a, b in worth_comparing if count_inliers(fingerprints[a], fingerprints[b]) >= MIN_INLIERS}
    return sorted(same)


def same_source_pairs(photos: Sequence[Path]) -> list[tuple[int, int]]:
    """Return pairs of photos that Roboflow augmented from one photo: NAME.rf.HASH.jpg with an equal NAME."""
    first: dict[str, int] = {}
    pairs = []
    for i, photo in enumerate(photos):
        found = ROBOFLOW.fullmatch(photo.stem)
        if found and first.setdefault(found[1], i) != i:
            pairs.append((first[found[1]], i))
    return pairs


def connected_components(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return the component of each of `count` items joined by `pairs`, numbered in order of first appearance."""
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


def count_inliers(a: PhotoFingerprint, b: PhotoFingerprint) -> int:
    """Count the places of photo `a` that one shift, rotation and scaling maps onto their match in `b`."""
    if min(len(a.descriptors), len(b.descriptors)) < 2:
        return 0
    matches = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(a.descriptors, b.descriptors, k=2)
    good = [m for m, second in matches if m.distance < MATCH_BITS and m.distance < MATCH_RATIO * second.distance]
    if len(good) < MIN_INLIERS:
        return 0
    source, target = a.points[[m.queryIdx for m in good]], b.points[[m.trainIdx for m in good]]
    transform, mask = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=FIT_PIXELS)
    if transform is None:
        return 0
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if not 1 / MAX_SCALE <= scale <= MAX_SCALE:
        return 0
    # ORB finds one corner on several levels of its pyramid; each place counts once.
    fits = mask.ravel().astype(bool)
    return min(len(np.unique(np.round(points[fits] / FIT_PIXELS), axis=0)) for points in (source, target))


def fingerprint_photo(photo: Path) -> PhotoFingerprint | str:
    """Return the photo's fingerprint, or why the photo cannot be read."""
    import imagehash
    from PIL import Image

    cv2.setNumThreads(1)
    try:
        pixels = read_image(photo)
    except MediaError as error:
        return error.reason
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    bits = imagehash.phash(Image.fromarray(grey)).hash.ravel()
    scale = FEATURE_SIDE / max(grey.shape)
    size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    points, descriptors = cv2.ORB.create(ORB_FEATURES).detectAndCompute(grey, None)
    if descriptors is None:
        return PhotoFingerprint(bits, np.zeros((0, 32), np.uint8), np.zeros((0, 2), np.float32))
    places = np.array([p.pt for p in points], np.float32)
    return PhotoFingerprint(bits, descriptors.astype(np.uint8, copy=False), places)


def _close_hashes(fingerprints: Sequence[PhotoFingerprint], bits: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i < j) whose hashes differ in at most `bits` bits."""
    if not fingerprints:
        return
    signs = np.stack([p.hash for p in fingerprints]).astype(np.float32) * 2 - 1
    for i, row in enumerate(signs):
        # If d of 64 signs differ, the product is 64 - 2d.
        for j in np.flatnonzero(signs[i + 1 :] @ row >= row.size - 2 * bits):
            yield i, i + 1 + int(j)


def _candidates(fingerprints: Sequence[PhotoFingerprint]) -> list[tuple[int, int]]:
    """Return the pairs (i < j) of photos with MIN_COLLISIONS or more descriptor collisions over all tables."""
    owners = np.repeat(np.arange(len(fingerprints)), [len(p.descriptors) for p in fingerprints])
    if len(owners) == 0:
        return []
    descriptors = np.concatenate([p.descriptors for p in fingerprints])
    rng = np.random.default_rng(0)
    found = []
    for _ in range(LSH_TABLES):
        keys = np.zeros(len(owners), np.int64)
        for bit in rng.choice(8 * descriptors.shape[1], LSH_BITS, replace=False):
            keys = (keys << 1) | ((descriptors[:, bit // 8] >> (bit % 8)) & 1)
        order = np.argsort(keys, kind="stable")
        keys, owner = keys[order], owners[order]
        for step in range(1, NEIGHBOURS + 1):
            hit = (keys[:-step] == keys[step:]) & (owner[:-step] != owner[step:])
            # The sort is stable, so the left owner is the smaller one.
            found.append(owner[:-step][hit] * len(fingerprints) + owner[step:][hit])
    pairs, counts = np.unique(np.concatenate(found), return_counts=True)
    return [(int(p) // len(fingerprints), int(p) % len(fingerprints)) for p in pairs[counts >= MIN_COLLISIONS]]
