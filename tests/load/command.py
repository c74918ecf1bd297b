"""The command tests.load: puts a server on this machine under load, or sends malformed requests to it."""

from __future__ import annotations

import io
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.table import Table

from common.arguments import parse_args
from common.cli import console, run_cli
from common.errors import UserError
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.serve.command import TOKEN_VARIABLE
from pipeline.serve.limits import Limits
from tests.load.clients import MIN_SECONDS, LoadResult, run_clients
from tests.load.http_fuzz import FuzzResult, fuzz_server
from tests.load.request_fuzzer import RequestFuzzer
from tests.load.server_process import Target, running_server

# Limits of a server that this command starts: slow clients are refused soon, so that the run is short.
SLOW_SECONDS, SMALL_BYTES = 2.0, 2_000_000
PHOTO_SIZE, PHOTO_FACES = (640, 480), 3


@dataclass(frozen=True)
class LoadArgs:
    """Put a server under load and measure it; with --malformed, send malformed requests to it instead.

    The exit code is 1 when an answer is wrong, memory grows, or the server has a problem afterwards.
    """

    clients: int = 8
    """Clients that post photos at the same time."""
    seconds: float = 60
    """Length of the run, in seconds."""
    photo: Path | None = None
    """The photo, a JPEG; by default a synthetic one with three faces."""
    url: str | None = None
    """The server, on this machine; by default one is started. Set MASK_TOKEN when the server has a token."""
    bundle: Path | None = None
    """Bundle directory of the started server; the default bundle when none is named."""
    workers: int | None = None
    """Photos at the same time of the started server; by default one per core."""
    malformed: int | None = None
    """Number of malformed requests to send."""
    seed: int = 0
    """Seed of the malformed requests."""


def run(args: LoadArgs) -> int:
    """Run the load or fuzz test, print a table and a line of JSON, and return the exit code."""
    _check(args)
    photo = _jpeg(args.photo)
    with _server(args) as target:
        if args.malformed is None:
            result = run_clients(target, photo, args.clients, args.seconds)
            console().print(_load_table(result))
            print(json.dumps(result.record()))
            return 0 if result.good else 1
        started = args.url is None
        limits = Limits()
        slow = SLOW_SECONDS if started else max(limits.head_seconds, limits.body_seconds)
        largest = SMALL_BYTES if started else limits.max_bytes
        fuzzer = RequestFuzzer(target, photo, largest, 1.25 * slow, random.Random(args.seed))
        return report(fuzz_server(fuzzer, args.malformed))


def report(result: FuzzResult) -> int:
    """Print the result of a fuzz run; return the exit code."""
    console().print(_fuzz_table(result))
    print(json.dumps(result.record()))
    for problem in result.problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if result.problems else 0


@contextmanager
def _server(args: LoadArgs) -> Iterator[Target]:
    if args.url is not None:
        yield Target.of(args.url, os.environ.get(TOKEN_VARIABLE))
        return
    options = [] if args.bundle is None else ["--bundle", str(args.bundle)]
    options += [] if args.workers is None else ["--workers", str(args.workers)]
    if args.malformed is not None:
        options += ["--head-seconds", f"{SLOW_SECONDS}", "--body-seconds", f"{SLOW_SECONDS}"]
        options += ["--max-bytes", f"{SMALL_BYTES}"]
    with running_server(*options) as target:
        yield target


def _jpeg(path: Path | None) -> bytes:
    if path is not None:
        return path.read_bytes()
    file = io.BytesIO()
    Image.fromarray(synthetic_photo(*PHOTO_SIZE, PHOTO_FACES)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _load_table(result: LoadResult) -> Table:
    record = result.record()
    table = Table(
        "", "", title=f"{result.clients} clients for {result.seconds:.0f} s", title_justify="left", show_header=False
    )
    table.add_row("requests, good answers", str(record["requests"]))
    table.add_row("per second", str(record["per_second"]))
    table.add_row("p50 / p99 / longest, ms", f"{record['p50_ms']} / {record['p99_ms']} / {record['max_ms']}")
    table.add_row("errors", ", ".join(f"{kind}: {n}" for kind, n in result.errors.items()) or "none")
    names = ("start", "warm", "end", "peak")
    table.add_row(f"memory {' / '.join(names)}, MB", " / ".join(str(record["memory_mb"][name]) for name in names))
    words = {True: "yes", False: "no", None: f"unknown (run {MIN_SECONDS:.0f} s or more)"}
    table.add_row("constant within 10% once warm", words[result.flat])
    return table


def _fuzz_table(result: FuzzResult) -> Table:
    table = Table("malformed requests", "sent", "ended", title=f"within {result.seconds:.0f} s", title_justify="left")
    for kind, ended in result.by_kind().items():
        table.add_row(kind, str(ended.total()), ", ".join(f"{how}: {n}" for how, n in sorted(ended.items())))
    memory = result.record()["memory_mb"]
    table.add_section()
    table.add_row("good photos during the run", str(result.good_photos), "200")
    table.add_row("memory before / after, MB", "", f"{memory['before']} / {memory['after']}")
    return table


def _check(args: LoadArgs) -> None:
    if not 1 <= args.clients <= 1000:
        raise UserError(f"--clients is {args.clients}; give 1 to 1000")
    if not 0.5 <= args.seconds <= 24 * 3600:
        raise UserError(f"--seconds is {args.seconds:g}; give 0.5 or more")
    if args.malformed is not None and args.malformed < 1:
        raise UserError(f"--malformed is {args.malformed}; give 1 or more")
    if args.url is not None and (args.bundle is not None or args.workers is not None):
        raise UserError("--bundle and --workers are for a started server; remove them, or remove --url")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_cli(lambda: run(parse_args(LoadArgs, argv, "tests.load")))
