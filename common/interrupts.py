"""Ctrl-C while a command loads its packages, which takes seconds. This module imports nothing heavy."""

from __future__ import annotations

import os
import signal


def install_sigint_exit() -> None:
    """Make Ctrl-C end the process at once, with one line and exit code 130.

    KeyboardInterrupt would unwind through half-imported packages, and some packages catch it.
    Nothing changes where Ctrl-C is already ignored, as in a shell's background processes.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def restore_sigint() -> bool:
    """Let Ctrl-C raise KeyboardInterrupt again; return whether `install_sigint_exit` was active."""
    installed = signal.getsignal(signal.SIGINT) is _exit
    if installed:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return installed


def _exit(*_: object) -> None:
    """End the process, as a signal handler."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)
