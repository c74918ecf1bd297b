"""What a bundle's provenance records of the datasets that it learned from."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.inference.provenance import recorded_sources


@pytest.mark.parametrize(
    ("provenance", "names"),
    [
        ({}, None),
        ({"stage1": None, "stage2": None}, None),
        ({"stage1": {"sources": ["a"]}}, ("a",)),
        ({"stage1": {"sources": {"a": {}, "b": {}}}, "stage2": {"sources": {"b": {}, "c": {}}}}, ("a", "b", "c")),
        ({"stage1": {"dataset": "photos"}, "stage2": {"mean_of": [{}, {}]}}, ("photos",)),
        ({"stage1": {"dataset": "photos"}, "stage2": {"sources": ["photos", "c"]}}, ("photos", "c")),
        ({"stage1": {"weights": "fine-tuned"}, "stage2": {"mean_of": [{}, {"sources": ["c"]}]}}, ("c",)),
    ],
)
def test_the_datasets_of_both_stages(provenance: dict[str, Any], names: tuple[str, ...] | None) -> None:
    assert recorded_sources(provenance) == names
