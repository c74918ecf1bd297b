"""A few seconds of fuzzing of each reader, and every input that broke a reader before.

The seed is fixed, so that a failure can be repeated. `make fuzz` takes other seeds, for as long as one likes.
"""

from __future__ import annotations

import os

import pytest

from tests.fuzz.run import fuzz_randomly
from tests.fuzz.targets import SEEDS, TARGETS

SECONDS = float(os.environ.get("FUZZ_SECONDS", "2"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_input_breaks_no_reader(name: str) -> None:
    assert fuzz_randomly(name, SECONDS, SEED) > 10


# Found by fuzzing, and fixed.
REGRESSIONS: list[tuple[str, bytes]] = [
    ("yaml", b"names: [a]\ntrain: " + b"x" * 5000),
    ("yaml", b"names:\n  0: a\n? 1: b\ntrain: train/images\n"),
]


@pytest.mark.parametrize(("name", "data"), REGRESSIONS)
def test_inputs_that_broke_a_reader(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_valid_and_empty_input(name: str) -> None:
    for data in (*SEEDS[name], b""):
        TARGETS[name](data)
