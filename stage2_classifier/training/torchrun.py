"""What a process that torchrun started owes the others: it ends with them, and says nothing that another has said."""

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

WAIT = 2.0  # seconds in which torchrun ends the others once one has failed; it looks ten times a second
LOOK = 0.2  # seconds between looks at whether torchrun is still there
FIRST = 1  # the process that takes on those whose parent has ended; in a container it may be torchrun itself


def by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """This process's number among those that train together."""
    return int(os.environ.get("RANK", "0"))


def end_with_launcher() -> None:
    """Ends this process when torchrun is no more: killed, it ends nobody, and training would go on unseen."""
    if not by_torchrun():
        return
    launcher = os.getppid()
    orphaned = launcher == FIRST and not _runs_python(FIRST)  # torchrun had ended before it was asked for

    def watch() -> None:
        while os.getppid() == launcher and not orphaned:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def together(command: Callable[[], int]) -> int:
    """Runs a command; of errors that befall every process, the first process alone tells.

    That another process has ended is a UserError, too.
    """
    try:
        try:
            return command()
        except RuntimeError as error:
            if not (by_torchrun() and _lost(error)):
                raise
            raise UserError("another process of this training has ended; go on with --resume") from error
    except (UserError, OSError):
        if rank():
            time.sleep(WAIT)  # where the first process fails as well, this one is ended in it
        raise
    except KeyboardInterrupt:
        if rank():
            return 1
        raise


def leave(code: int) -> NoReturn:
    """Ends this process; at once where it has failed, for torchrun and the others wait for that.

    Python's own end takes seconds once several processes are connected.
    """
    if code and by_torchrun():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads it any more
                stream.flush()
        os._exit(code)
    sys.exit(code)


def check_gpus(gpus: int) -> None:
    """Raises UserError when torchrun has started more processes here than there are GPUs."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > gpus:
        raise UserError(f"torchrun: {processes} processes for {gpus} GPU(s); start one for each, or give --cpu")


def _runs_python(process: int) -> bool:
    """Whether a process is Python, as torchrun is; no, where the system does not tell."""
    try:
        return b"python" in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0", 1)[0]
    except OSError:
        return False


def _lost(error: RuntimeError) -> bool:
    """Whether it says that the others cannot be reached: gloo has no exception of its own."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
