"""Processes under torchrun: they end together, and report an error only once."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from common.errors import UserError

SHUTDOWN_GRACE = 2.0  # seconds; when one process fails, torchrun ends the others within them (it polls every 0.1 s)
POLL_INTERVAL = 0.2  # seconds between checks that torchrun still runs
FIRST_PARENT = os.getppid()  # torchrun, where it started this process
INIT_PID = 1  # adopts processes whose parent has ended; in a container it may be torchrun itself


def under_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Return this process's number among those that train together."""
    return int(os.environ.get("RANK", "0"))


def end_with_launcher() -> None:
    """End this process when torchrun has ended: a killed torchrun ends no process, and training would continue."""
    if not under_torchrun():
        return
    launcher = os.getppid()
    orphaned = launcher == INIT_PID and not _runs_python(INIT_PID)  # torchrun ended before getppid()

    def watch() -> None:
        while os.getppid() == launcher and not orphaned:
            time.sleep(POLL_INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def report_errors_once(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; only the first process reports an error that all processes have.

    Raises:
        UserError: as the command does, or another process has ended.
    """
    try:
        try:
            return command()
        except RuntimeError as error:
            if not (under_torchrun() and _lost_peer(error)):
                raise
            if os.getppid() != FIRST_PARENT:  # torchrun was killed, and the other process noticed it first
                return 1
            raise UserError("another process of this training has ended; continue with --resume") from error
    except (UserError, OSError):
        if rank():
            time.sleep(SHUTDOWN_GRACE)  # if the first process fails as well, torchrun ends this one meanwhile
        raise
    except KeyboardInterrupt:
        if rank():
            return 1
        raise


def exit_now(code: int) -> NoReturn:
    """End this process with an exit code; at once if it failed, because torchrun and the others wait for it.

    Python's own shutdown takes seconds once several processes are connected.
    """
    if code and under_torchrun():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads the stream any more
                stream.flush()
        os._exit(code)
    sys.exit(code)


def check_gpus(gpus: int) -> None:
    """Raise UserError when torchrun started more processes here than there are GPUs."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > gpus:
        raise UserError(f"torchrun: {processes} processes for {gpus} GPU(s); start one per GPU, or use --cpu")


def _runs_python(process: int) -> bool:
    """Return whether a process is Python, as torchrun is; False where the system does not say."""
    try:
        return b"python" in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0", 1)[0]
    except OSError:
        return False


def _lost_peer(error: RuntimeError) -> bool:
    """Return whether an error means that another process cannot be reached; gloo has no exception class for this."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
