"""How often each face and each photo is drawn in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.annotations.source import Source, draw_factors
from common.boxes import area
from stage1_faces.training.samples import TrainingPhoto

BACKGROUND_SHARE = 0.15  # share of P-Net's patches that are cropped anywhere, not around a face
FACE_FREE_SHARE = 0.25  # share of the patches from anywhere that show face-free photos, unless their source names one
# A face is a profile when its nose is so far from the eyes' middle. The unit is the eyes' distance, along their line.
PROFILE_TURN = 0.5
# A face is half-hidden when its box touches the photo's edge, is narrower than this share of its height (one in twenty
# is), or is covered by another face's box by more than that share.
NARROW, COVERED = 0.6, 0.25
EDGE = 1.0  # px


def face_sampling_weights(photos: Sequence[TrainingPhoto]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the faces (F, 2) as photo and face index, and the probability (F,) with which each is drawn.

    It is proportional to 1 / sqrt(faces of its class * faces in its photo): bare faces are rare in the Kaggle set.
    The faces of each source together are drawn as often as its factor says. A face without a known class counts as
    the mean face of its source.
    """
    faces = [(i, j) for i, photo in enumerate(photos) for j in range(len(photo.boxes))]
    known = np.array([_class_known(photos[i], j) for i, j in faces], np.bool_)
    counts = Counter(photos[i].labels[j] for (i, j), is_known in zip(faces, known, strict=True) if is_known)
    # Faces without a known class: a count of 1 for now.
    class_counts = [
        counts[photos[i].labels[j]] if is_known else 1 for (i, j), is_known in zip(faces, known, strict=True)
    ]
    weights = np.array([(n * len(photos[i].boxes)) ** -0.5 for n, (i, _) in zip(class_counts, faces, strict=True)])
    sources = np.array([photos[i].source for i, _ in faces])
    if not known.all():
        by_class = np.array(class_counts, np.float64) ** -0.5
        for source in sorted(set(sources[~known])):
            known_in_source = known & (sources == source)
            weights[~known & (sources == source)] *= (
                by_class[known_in_source if known_in_source.any() else known].mean() if known.any() else 1
            )
    if any(photo.face_factors is not None for photo in photos):
        weights *= [1 if (f := photos[i].face_factors) is None else f[j] for i, j in faces]
    if len(set(sources)) > 1:
        factors = {photo.source: photo.source_factor for photo in photos}
        for source in sorted(set(sources)):
            of_source = sources == source
            weights[of_source] *= factors[source] * of_source.sum() / weights[of_source].sum()
    return np.array(faces, np.intp), weights / weights.sum()


def _class_known(photo: TrainingPhoto, face: int) -> bool:
    return photo.class_known is None or bool(photo.class_known[face])


def background_weights(photos: Sequence[TrainingPhoto]) -> NDArray[np.float64]:
    """Return the probability (N,) with which each of N complete photos gives a patch from anywhere."""
    free = np.array([photo.face_free for photo in photos], bool)
    weights = np.array([photo.source_factor for photo in photos], np.float64)
    others = weights[~free].sum()
    if others > 0:
        weights[~free] *= (1 - weights[free].sum()) / others
    if not weights.sum() > 0:
        weights = np.ones(len(photos))
    return weights / weights.sum()


def with_source_factors(photos: Sequence[TrainingPhoto], sources: Sequence[Source]) -> list[TrainingPhoto]:
    """Return the photos with the factors of their sources, by the sources' shares.

    The share of a face-free source is that of all patches; it takes part in the patches from anywhere alone.

    Raises:
        UserError: the shares of the sources do not fit together.
    """
    faces, free = Counter[str](), Counter[str]()
    for photo in photos:
        (free if photo.face_free else faces)[photo.source] += 1 if photo.face_free else len(photo.boxes)
    factors = draw_factors(faces, {source.name: source.share for source in sources if not source.face_free})
    # Face-free sources without a share divide the usual one by their photos.
    named = {s.name: s.share / BACKGROUND_SHARE for s in sources if s.name in free and s.share is not None}
    unnamed = sum(count for name, count in free.items() if name not in named)
    rest = max(min(FACE_FREE_SHARE, 1 - sum(named.values())), 0) / max(unnamed, 1)
    most = max(sum(named.values()), 1.0)  # all patches from anywhere, and no more
    factors |= {name: named[name] / most / count if name in named else rest for name, count in free.items()}
    return [replace(photo, source_factor=factors[photo.source]) for photo in photos]


def with_face_factors(photos: Sequence[TrainingPhoto], factors: Mapping[str, float]) -> list[TrainingPhoto]:
    """Return the photos with faces drawn more often: profiles by the factor "profile", half-hidden ones by "hidden"."""
    drawn = []
    for photo in photos:
        profile = np.where(is_profile(photo.landmarks), factors["profile"], 1.0)
        hidden = np.where(is_half_hidden(photo), factors["hidden"], 1.0)
        drawn.append(replace(photo, face_factors=profile * hidden))
    return drawn


def is_profile(landmarks: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return (N,) whether faces with landmarks (N, 5, 2) are turned to the side; unknown landmarks are not."""
    eyes = landmarks[:, 1] - landmarks[:, 0]
    distance = np.hypot(eyes[:, 0], eyes[:, 1])
    nose = landmarks[:, 2] - (landmarks[:, 0] + landmarks[:, 1]) / 2
    along = np.abs((nose * eyes).sum(axis=1))
    return np.asarray(along > PROFILE_TURN * distance**2)  # false for nan


def is_half_hidden(photo: TrainingPhoto) -> NDArray[np.bool_]:
    """Return (N,) whether faces are cut by the photo's edge, narrow, or covered by another face's box."""
    boxes, (width, height) = photo.boxes, photo.maps.size
    cut = (boxes[:, :2] < EDGE).any(axis=1) | (boxes[:, 2:] > np.array([width, height]) - EDGE).any(axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    shared = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    cover = np.prod(np.maximum(shared, 0), axis=2) / np.maximum(area(boxes), 1e-9)[:, None]
    np.fill_diagonal(cover, 0)
    return np.asarray(cut | (sides[:, 0] < NARROW * sides[:, 1]) | (cover > COVERED).any(axis=1))
