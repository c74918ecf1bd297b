"""Ctrl-C while a command still loads its packages, which takes seconds: one line at once. Imports nothing heavy."""

from __future__ import annotations

import os
import signal


def end_at_ctrl_c() -> None:
    """From now on Ctrl-C ends the process with one line and code 130; for a command to call before its imports.

    At once, for KeyboardInterrupt would unwind through packages that are half imported, and through what they catch.
    Where Ctrl-C is not Python's to handle (a shell has what it starts in the background ignore it), nothing changes.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_at_ctrl_c() -> bool:
    """Gives Ctrl-C back to Python, which raises KeyboardInterrupt. Returns whether `end_at_ctrl_c` had taken it."""
    ours = signal.getsignal(signal.SIGINT) is _end
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return ours


def _end(*_: object) -> None:
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)
