"""What a bundle learned from, as its provenance says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.annotations import AnnotatedImage
from common.annotations.types import fingerprint
from common.splits import read_splits
from pipeline.evaluate.report import Table
from pipeline.inference.provenance import classifier_records, recorded_sources

UNKNOWN = "-"  # a cell of what an earlier version did not record
SOURCES_NOTE = (
    "Faces by class: those whose class is learned. Edges: how box edges are learned. Background: whether places "
    "without a box are learned as such. Share: of the draws; without one, by the number of faces. Crops: stage 2's "
    "faces + false alarms."
)
# By whether the bundle learned from the scored photos.
LEARNED_NOTES = {
    "yes": "the bundle learned from these photos, or from photos of this dataset: the figures flatter it",
    "no": "the bundle does not record that it learned from these photos; it names datasets by their folders alone",
    "not recorded": "the bundle does not say whether it learned from these photos; if it did, the figures flatter it",
}


def names_source(provenance: Mapping[str, Any], name: str) -> str:
    """Return whether a bundle's provenance names a dataset among those learned from: "yes", "no", "not recorded"."""
    names = recorded_sources(provenance)
    return "not recorded" if names is None else "yes" if name in names else "no"


def learned_from(
    provenance: Mapping[str, Any],
    name: str,
    dataset: Sequence[AnnotatedImage],
    scored: Sequence[AnnotatedImage],
    splits: Path | None,
) -> str:
    """Return whether a bundle learned from the scored photos, as far as splits.csv and the bundle say so.

    Args:
        provenance: of the bundle.
        name: of the dataset: that of its folder.
        dataset: all photos of the dataset.
        scored: those that are scored.
        splits: splits.csv.

    Returns:
        "yes", "no" or "not recorded".
    """
    if (provenance.get("stage1") or {}).get("data") == fingerprint(dataset):  # from all of its photos
        return "yes"
    if splits is not None:
        of_photo = read_splits(splits)
        sides = {of_photo.get(f"{name}/{image.image_id}", of_photo.get(image.image_id)) for image in scored}
        if "train" in sides:
            return "yes"
        recorded = (provenance.get("data") or {}).get("splits_sha256")
        if sides <= {"val", "test"} and recorded == hashlib.sha256(splits.read_bytes()).hexdigest():
            return "no"
    return names_source(provenance, name)


def sources_table(provenance: Mapping[str, Any], title: str = "Sources learned from") -> Table | None:
    """Return one row per dataset that a bundle learned from; None where it learned from one, or does not say.

    Args:
        provenance: of the bundle.
        title: of the table.
    """
    names = recorded_sources(provenance)
    stage1 = _facts((provenance.get("stage1") or {}).get("sources"))
    stage2 = _facts(next((part.get("sources") for part in classifier_records(provenance) if part.get("sources")), None))
    if names is None or not (stage1 or stage2):
        return None
    rows = []
    for name in names:
        own, crops = stage1.get(name, {}), stage2.get(name, {})
        facts = {**crops, **own}
        counts = facts.get("class_counts")
        by_class = UNKNOWN if counts is None else ", ".join(f"{count} {label}" for label, count in counts.items())
        if unknown := facts.get("class_unknown"):
            by_class = f"{by_class}, {unknown} of no known class" if by_class else f"{unknown} of no known class"
        background = facts.get("background")
        share = facts.get("share")
        cells = (str(facts.get("photos", UNKNOWN)), str(facts.get("faces", UNKNOWN)), by_class or UNKNOWN)
        learned = (facts.get("edges", UNKNOWN), UNKNOWN if background is None else "yes" if background else "no")
        drawn = UNKNOWN if share is None else f"{share:g}"
        rows.append((name, *cells, *learned, drawn, _crops(crops)))
    header = ("source", "photos", "faces", "faces by class", "edges", "background", "share", "crops")
    return Table(title, header, tuple(rows), SOURCES_NOTE)


def _crops(facts: Mapping[str, Any]) -> str:
    """Return the numbers of stage 2's faces and false alarms of a dataset."""
    if "faces" not in facts:
        return UNKNOWN
    return str(facts["faces"]) + (f" + {facts['false_alarms']}" if facts.get("false_alarms") else "")


def _facts(sources: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return {name: facts} of a record that has facts; empty for one that has names alone."""
    return sources if isinstance(sources, Mapping) else {}
