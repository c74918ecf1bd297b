"""One clear line, naming the install command, when an optional part is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import PipelineError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turns a missing package inside the block into a PipelineError that says how to install the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"this needs the package {error.name!r}; install it with `pip install -e '.[{extra}]'`"
        ) from error


@contextmanager
def needs_package(name: str) -> Iterator[None]:
    """Turns the missing package of an integration, which no extra of ours brings, into one clear PipelineError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise PipelineError(f"this needs the package {name!r}; install it with `pip install {name}`") from error
