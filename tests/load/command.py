"""Puts a server under load, or under malformed requests, and tells how it fares; all on this machine."""

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

import tyro
from PIL import Image
from rich.table import Table

from common.cli import console, program_name, run_cli
from common.errors import UserError
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.serve.command import TOKEN_VARIABLE
from pipeline.serve.limits import Limits
from tests.load.clients import MIN_SECONDS, LoadResult, run_clients
from tests.load.http_fuzz import FuzzResult, fuzz_server
from tests.load.malformed import RequestFuzzer
from tests.load.server_process import Target, running_server

# A server of our own loses patience soon, so that slow clients do not make hours of it.
SLOW_SECONDS, SMALL_BYTES = 2.0, 2_000_000
PHOTO_SIZE, PHOTO_FACES = (640, 480), 3


@dataclass(frozen=True)
class LoadArgs:
    """Puts a server under load and measures it; with --malformed, sends it malformed requests instead.

    The exit code is 1 where an answer is wrong, memory grows, or the server is not well afterwards.
    """

    clients: int = 8
    """Clients that post a photo at a time."""
    seconds: float = 60
    """How long they do."""
    photo: Path | None = None
    """The photo, a JPEG; one with three faces is made when not given."""
    url: str | None = None
    """The server, on this machine; one is started when not given. Where it has a token, set MASK_TOKEN, too."""
    bundle: Path | None = None
    """Bundle directory of the server that is started; the default bundle when none is named."""
    workers: int | None = None
    """Photos at a time of the server that is started; one for each core when not given."""
    malformed: int | None = None
    """Send so many malformed requests."""
    seed: int = 0
    """What the malformed requests are made from."""


def run(args: LoadArgs) -> int:
    """Measures, prints the table and a line of JSON; returns the exit code."""
    _check(args)
    photo = _jpeg(args.photo)
    with _server(args) as target:
        if args.malformed is None:
            load = run_clients(target, photo, args.clients, args.seconds)
            console().print(_load_table(load))
            print(json.dumps(load.record()))
            return 0 if load.good else 1
        own = args.url is None
        limits = Limits()
        slow = SLOW_SECONDS if own else max(limits.head_seconds, limits.body_seconds)
        largest = SMALL_BYTES if own else limits.max_bytes
        maker = RequestFuzzer(target, photo, largest, 1.25 * slow, random.Random(args.seed))
        return report(fuzz_server(maker, args.malformed))


def report(storm: FuzzResult) -> int:
    """Prints what became of a storm; returns the exit code."""
    console().print(_storm_table(storm))
    print(json.dumps(storm.record()))
    for problem in storm.problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if storm.problems else 0


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


def _load_table(load: LoadResult) -> Table:
    record = load.record()
    table = Table(
        "", "", title=f"{load.clients} clients for {load.seconds:.0f} s", title_justify="left", show_header=False
    )
    table.add_row("requests, good answers", str(record["requests"]))
    table.add_row("a second", str(record["per_second"]))
    table.add_row("p50 / p99 / longest, ms", f"{record['p50_ms']} / {record['p99_ms']} / {record['max_ms']}")
    table.add_row("errors", ", ".join(f"{kind}: {n}" for kind, n in load.errors.items()) or "none")
    names = ("start", "warm", "end", "peak")
    table.add_row(f"memory {' / '.join(names)}, MB", " / ".join(str(record["memory_mb"][name]) for name in names))
    words = {True: "yes", False: "no", None: f"not told (run {MIN_SECONDS:.0f} s or more)"}
    table.add_row("flat within 10% once warm", words[load.flat])
    return table


def _storm_table(storm: FuzzResult) -> Table:
    table = Table("malformed requests", "sent", "ended", title=f"within {storm.seconds:.0f} s", title_justify="left")
    for kind, ended in storm.by_kind().items():
        table.add_row(kind, str(ended.total()), ", ".join(f"{how}: {n}" for how, n in sorted(ended.items())))
    memory = storm.record()["memory_mb"]
    table.add_section()
    table.add_row("good photos meanwhile", str(storm.good_photos), "200")
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
        raise UserError("--bundle and --workers are for a server that is started; leave them out with --url")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return run_cli(lambda: run(tyro.cli(LoadArgs, args=argv, prog=program_name("tests.load"))))
