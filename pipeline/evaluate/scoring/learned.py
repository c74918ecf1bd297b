"""What a bundle learned from, as its provenance says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def recorded_sources(provenance: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the datasets that a bundle learned from; None where the bundle does not record them.

    A bundle of several datasets records them with the run of its cascade, or with its data.
    """
    parts = [provenance.get("stage1") or {}, provenance.get("data") or {}]
    found = [part["sources"] for part in parts if part.get("sources")]
    return tuple(dict.fromkeys(name for names in found for name in names)) if found else None
