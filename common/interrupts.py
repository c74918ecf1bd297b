"""Ctrl-C while a command loads its packages, which takes seconds. Imports nothing heavy."""

from __future__ import annotations

import os
import signal


def install_sigint_exit() -> None:
    """Make Ctrl-C end the process at once, with one line and exit code 130.

    KeyboardInterrupt would unwind through packages that are half imported, and some of them catch it.
    Nothing changes where Python does not handle Ctrl-C: a shell has its background processes ignore the signal.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def restore_sigint() -> bool:
    """Let Ctrl-C raise KeyboardInterrupt again.

    Returns:
        Whether `install_sigint_exit` had been in force.
    """
    installed = signal.getsignal(signal.SIGINT) is _exit
    if installed:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return installed


def _exit(*_: object) -> None:
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)
