"""Reads what a bundle's provenance records of the datasets that it learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def recorded_sources(provenance: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the datasets that a bundle learned from; None where the bundle does not record them.

    A bundle of several datasets records them with the run of its cascade, or with those of its classifier; a bundle of
    one dataset records its name with the run of its cascade.
    """
    stage1 = provenance.get("stage1") or {}
    records = [stage1.get("sources") or ([stage1["dataset"]] if stage1.get("dataset") else None)]
    records += [classifier.get("sources") for classifier in classifier_records(provenance)]
    found = [names for names in records if names]
    return tuple(dict.fromkeys(name for names in found for name in names)) if found else None


def classifier_records(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the record of a provenance about its classifier, and of each network where it is a mean."""
    stage2 = provenance.get("stage2") or {}
    yield stage2
    yield from stage2.get("mean_of") or ()
