"""Find photos of the same picture or scene: exact copies, re-encodings, re-crops, mirror images, near-identical shots.

There are two kinds of evidence. A perceptual hash (imagehash.phash, 64 bits) of the whole photo finds copies and
light crops. Stronger crops change the hash too much: true pairs differ in 20 to 34 bits, unrelated pairs from 10 on.
ORB features (Rublee et al. 2011) find these pairs. Photos that share many similar descriptors are candidates. A
candidate pair counts when one similarity transform (RANSAC) explains enough of its matches.

The limits were set by eye on all pairs of 674 photos of the Kaggle "Face Mask Detection" set. The 17
pairs within 8 bits show the same scene; the first unrelated pair has 10. Every pair with 5 or more inliers is a
re-crop, a shot of one series or the same person; unrelated pairs have 4 at most.

A mirror image is found by comparing a photo with the mirrored other one. Here the limits are stricter, because a face
with a mask resembles its own mirror image. The set has no mirrored pair. Its pairs differ from a mirrored other photo
in 10 bits or more, and have 10 inliers at most (one man in two shots). Three other sets (4842 photos) have unrelated
pairs that differ in 6 bits. Five pairs there are true mirror images, with 36 inliers or more; other pairs have 14 at
most. Made mirror images of 135 photos of the first set differ in at most 4 bits after JPEG quality 30 at half the
size. 134 of them have 20 inliers or more after a crop to 64% of the area. All have 58 or more after a rotation by 15
degrees, and 90 or more when turned by 90 degrees or upside down: ORB features turn with the photo.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from common.cli import progress, requires_extra
from common.errors import MediaError
from common.images import read_image
from common.processes import map_jobs

HASH_SIDE = 32  # pixels; imagehash.phash resizes to it
HASH_BITS = 8  # of 64: hashes that differ in at most this many bits are of the same picture
HASH_CANDIDATE_BITS = 14  # hashes that differ in at most this many bits are compared in full
MIN_INLIERS = 5  # matches that one similarity transform must explain
# Near faces share corners of eyes and masks: of 2222 portraits, 541 pairs have 5 to 16 inliers, and few of them show
# the same. Such pairs join no more than MAX_WEAK_GROUP photos, so that they cannot chain a whole set of portraits.
STRONG_INLIERS = 17
MAX_WEAK_GROUP = 8
MIRROR_HASH_BITS = 4  # as HASH_BITS, for a photo and a mirrored one
MIRROR_MIN_INLIERS = 20  # as MIN_INLIERS, for a photo and a mirrored one
FEATURE_SIDE = 400  # pixels of the longer side at which features are taken
ORB_FEATURES = 300  # per photo
MATCH_BITS = 48  # of 256: two descriptors match below this distance
MATCH_RATIO = 0.75  # best against second best match (Lowe 2004)
FIT_PIXELS = 4.0  # largest distance of a match from the transform
MAX_SCALE = 4.0  # a re-crop enlarged more than this leaves too few pixels to compare

# Candidates by locality-sensitive hashing with sampled bits (Indyk & Motwani 1998): descriptors collide when all bits
# of one table are equal. Photos with enough collisions are compared in full.
LSH_TABLES = 40
MIRROR_LSH_TABLES = 10  # a mirrored pair that counts has hundreds of collisions
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
    points: NDArray[np.float32]  # (N, 2) where they are, in pixels of the photo at FEATURE_SIDE
    mirrored: PhotoFingerprint | None = None  # the same of the mirrored photo


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
    """Return pairs of photos that show the same scene or its mirror image.

    Pairs that follow from others are left out: a and c, where a and b, b and c are pairs. Many shots of one camera then
    need few comparisons.
    """
    component = np.arange(len(fingerprints))
    pairs: list[tuple[int, int]] = []

    def join(a: int, b: int) -> None:
        if component[a] != component[b]:
            component[component == component[b]] = component[a]
            pairs.append((a, b))

    hashes = [photo.hash for photo in fingerprints]
    mirrors = [_mirrored(photo) for photo in fingerprints]
    mirrored_hashes = [photo.hash for photo in mirrors]
    for a, b in _close_hashes(hashes, hashes, HASH_BITS, component):
        join(a, b)
    for a, b in _close_hashes(hashes, mirrored_hashes, MIRROR_HASH_BITS, component):
        join(a, b)
    plain = {*_close_hashes(hashes, hashes, HASH_CANDIDATE_BITS, component), *_candidates(fingerprints)}
    weak: list[tuple[int, int, int]] = []
    for a, b in sorted(plain):
        if component[a] != component[b]:
            inliers = count_inliers(fingerprints[a], fingerprints[b])
            if inliers >= STRONG_INLIERS:
                join(a, b)
            elif inliers >= MIN_INLIERS:
                weak.append((-inliers, a, b))
    flipped = {
        *_close_hashes(hashes, mirrored_hashes, HASH_CANDIDATE_BITS, component),
        *_mirror_candidates(fingerprints, mirrors),
    }
    for a, b in sorted(flipped):
        if component[a] != component[b] and count_inliers(fingerprints[a], mirrors[b]) >= MIRROR_MIN_INLIERS:
            join(a, b)
    for _, a, b in sorted(weak):  # the strongest first
        if int(np.isin(component, (component[a], component[b])).sum()) <= MAX_WEAK_GROUP:
            join(a, b)
    return pairs


def _mirrored(photo: PhotoFingerprint) -> PhotoFingerprint:
    """Return the fingerprint of the mirrored photo."""
    assert photo.mirrored is not None
    return photo.mirrored


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
    from PIL import Image, ImageOps

    cv2.setNumThreads(1)
    try:
        pixels = read_image(photo)
    except MediaError as error:
        return error.reason
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    # phash resizes to this first; the mirror image then costs no second resizing.
    small = Image.fromarray(grey).resize((HASH_SIDE, HASH_SIDE), Image.Resampling.LANCZOS)
    bits, mirrored_bits = (imagehash.phash(side).hash.ravel() for side in (small, ImageOps.mirror(small)))
    scale = FEATURE_SIDE / max(grey.shape)
    size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
    orb = cv2.ORB.create(ORB_FEATURES)
    if min(size) <= 2 * orb.getEdgeThreshold():  # too thin for a corner; OpenCV fails on the thinnest
        return replace(_fingerprint(bits, (), None), mirrored=_fingerprint(mirrored_bits, (), None))
    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    points, descriptors = orb.detectAndCompute(grey, None)
    # The mirrored photo has the same corners, mirrored; only their descriptors differ.
    width = grey.shape[1]
    flipped = [
        cv2.KeyPoint(width - 1 - p.pt[0], p.pt[1], p.size, (180 - p.angle) % 360, p.response, p.octave) for p in points
    ]
    mirrored = _fingerprint(mirrored_bits, *orb.compute(np.ascontiguousarray(grey[:, ::-1]), flipped))
    return replace(_fingerprint(bits, points, descriptors), mirrored=mirrored)


def _fingerprint(
    bits: NDArray[np.bool_], points: Sequence[cv2.KeyPoint], descriptors: MatLike | None
) -> PhotoFingerprint:
    """Return a fingerprint without its mirror image; OpenCV's `descriptors` are None where there are no corners."""
    if descriptors is None:
        return PhotoFingerprint(bits, np.zeros((0, 32), np.uint8), np.zeros((0, 2), np.float32))
    places = np.array([p.pt for p in points], np.float32).reshape(-1, 2)
    return PhotoFingerprint(bits, np.asarray(descriptors, np.uint8), places)


def _close_hashes(
    hashes: Sequence[NDArray[np.bool_]],
    others: Sequence[NDArray[np.bool_]],
    bits: int,
    component: NDArray[np.intp],
) -> Iterator[tuple[int, int]]:
    """Yield the pairs (i < j) of different components whose hash and other hash differ in at most `bits` bits."""
    if not hashes:
        return
    signs = np.stack(hashes).astype(np.float32) * 2 - 1
    other_signs = np.stack(others).astype(np.float32) * 2 - 1
    for i, row in enumerate(signs):
        # If d of 64 signs differ, the product is 64 - 2d. The caller changes `component` between two pairs.
        for j in np.flatnonzero(other_signs[i + 1 :] @ row >= row.size - 2 * bits) + i + 1:
            if component[i] != component[j]:
                yield i, int(j)


def _candidates(photos: Sequence[PhotoFingerprint]) -> list[tuple[int, int]]:
    """Return the pairs (i < j) of photos with MIN_COLLISIONS or more descriptor collisions over all tables."""
    return _collisions(photos, LSH_TABLES, np.zeros(len(photos), np.intp))


def _mirror_candidates(
    photos: Sequence[PhotoFingerprint], mirrors: Sequence[PhotoFingerprint]
) -> list[tuple[int, int]]:
    """Return the pairs (i < j) of photos that collide as `_candidates` do, one of the two mirrored."""
    count = len(photos)
    side = np.repeat(np.arange(2), count)
    found = _collisions([*photos, *mirrors], MIRROR_LSH_TABLES, side)
    pairs = {(min(a, b - count), max(a, b - count)) for a, b in found}
    return [(a, b) for a, b in pairs if a != b]


def _collisions(photos: Sequence[PhotoFingerprint], tables: int, side: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return the pairs (i < j) with MIN_COLLISIONS or more descriptor collisions over all tables.

    Args:
        photos: what to compare.
        tables: number of tables.
        side: (len(photos),) 0 throughout: all pairs count. With 0 and 1: pairs of a photo of each side count.
    """
    owners = np.repeat(np.arange(len(photos)), [len(p.descriptors) for p in photos])
    if len(owners) == 0:
        return []
    descriptors = np.concatenate([p.descriptors for p in photos])
    wanted = int(side.max())
    rng = np.random.default_rng(0)
    found = []
    for _ in range(tables):
        keys = np.zeros(len(owners), np.int64)
        for bit in rng.choice(8 * descriptors.shape[1], LSH_BITS, replace=False):
            keys = (keys << 1) | ((descriptors[:, bit // 8] >> (bit % 8)) & 1)
        order = np.argsort(keys, kind="stable")
        keys, owner = keys[order], owners[order]
        sides = side[owner]
        for step in range(1, NEIGHBOURS + 1):
            hit = (keys[:-step] == keys[step:]) & (owner[:-step] != owner[step:])
            hit &= sides[step:] - sides[:-step] == wanted
            # The sort is stable, so the left owner is the smaller one.
            found.append(owner[:-step][hit] * len(photos) + owner[step:][hit])
    pairs, counts = np.unique(np.concatenate(found), return_counts=True)
    return [(int(p) // len(photos), int(p) % len(photos)) for p in pairs[counts >= MIN_COLLISIONS]]
