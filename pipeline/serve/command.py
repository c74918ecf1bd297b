"""The command pipeline.serve: the web page and the HTTP API."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import tyro

from common.arguments import parse_args
from common.cli import requires_extra, run_cli
from common.errors import UserError
from common.memory import limit_malloc_arenas
from pipeline.inference.device import Device, default_workers
from pipeline.inference.lazy import load_predictor
from pipeline.serve.access import checked_hosts, checked_origins, checked_root_path
from pipeline.serve.limits import Limits
from pipeline.serve.page_files import checked_device_folder

TOKEN_VARIABLE = "MASK_TOKEN"
LOOPBACK_NAMES = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServeArgs:
    """Serve the web page and the HTTP API, by default to this machine alone. Nothing is stored.

    When the variable MASK_TOKEN is set, the API requires it as `Authorization: Bearer TOKEN`.
    """

    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 admits the whole network."""
    port: int = 8000
    """The port to listen at; 0 takes a free one."""
    bundle: Path | None = None
    """Bundle directory, or a bundle of the project by name; the default bundle when none is named."""
    workers: int | None = None
    """Photos processed at the same time; by default one per core (8 at most), with cuda one."""
    threads: int = 1
    """Threads of each net; more workers gain more than more threads."""
    device: Device = "cpu"
    """What the nets run on; cuda needs the package onnxruntime-gpu."""
    token: str | None = None
    """The token. MASK_TOKEN is safer: other users of the machine can read a command line."""
    root_path: str = ""
    """The path prefix under which a reverse proxy shows the server, such as /mask. The proxy may remove it or not."""
    allow_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A further name under which the server may be addressed, such as a proxy's; may be repeated."""
    allow_origin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An origin of another site whose pages may use the API, such as https://app.example.org; may be repeated.
    The value * admits every page, and needs a token."""
    on_device: Path | None = None
    """A site of `pipeline.export --web`: with it, the page can look at photos on the visitor's device, too."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)


def run(args: ServeArgs) -> int:
    """Serve until a signal ends the server; return the exit code."""
    token = _checked_token(args)
    root_path, names = checked_root_path(args.root_path), checked_hosts(args.allow_host)
    device = None if args.on_device is None else checked_device_folder(args.on_device)
    origins = checked_origins(args.allow_origin, token is not None)
    workers = args.workers or default_workers(args.device)
    with requires_extra("serve"):
        from pipeline.serve.app import create_app
        from pipeline.serve.http_server import address_of, bound_address, listen, make_server
    with listen(args.host, args.port) as listener:
        limit_malloc_arenas()
        if workers > 1:
            cv2.setNumThreads(1)  # the workers use all cores
        predictor = load_predictor(args.bundle, args.threads, args.device)
        own = {*LOOPBACK_NAMES, args.host.lower(), str(bound_address(listener))}
        hosts = own | names if names or not bound_address(listener).is_unspecified else None
        if not bound_address(listener).is_loopback and token is None:
            who = f"everyone who reaches {address_of(listener)} can use it"
            print(f"warning: {who}; set {TOKEN_VARIABLE} to require a token", file=sys.stderr)
        app = create_app(predictor, args.limits, token, workers, hosts, origins, root_path, device)
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of each broken body
        asyncio.run(make_server(app, args.limits).serve([listener]))
        if app.state.limiter.is_busy:  # a normal exit would wait for the threads
            sys.stdout.flush()
            os._exit(0)
    return 0


def _checked_token(args: ServeArgs) -> str | None:
    """Check the values and return the token; raise UserError on a bad value."""
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port is {args.port}; give 0 to 65535")
    for flag, value in (("--threads", args.threads), ("--workers", args.workers)):
        if value is not None and not 1 <= value <= 1024:
            raise UserError(f"{flag} is {value}; give 1 to 1024")
    name, token = "--token", args.token
    if token is None:
        name, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        fix = "give ASCII letters, digits and signs, without spaces around them"
        raise UserError(f"{name} is not a valid token; {fix}")
    return token


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_cli(lambda: run(parse_args(ServeArgs, argv, "pipeline.serve")))
