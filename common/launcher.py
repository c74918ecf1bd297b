"""Start a command as a program; Ctrl-C works before any package is loaded. This module imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import Any

REPEAT_SECONDS = 0.05  # until a Ctrl-C that was lost or came too early is sent again
IMPORT_FILE = "<frozen importlib._bootstrap>"  # of the frames of an import
# The smallest make target that installs an extra; `make install` installs all extras.
MAKE_TARGETS = {"demo": "demo", "serve": "install-serve", "video": "install-serve"}


def start(target: str, package: str | None = None) -> None:
    """Load a command's module, call its function, and exit with the code that the function returns.

    Args:
        target: the command's function, as "module:function".
        package: a package of the `train` extra that the module needs; without it, the error has the install command.
    """
    install_sigint_exit()
    # numpy's own BLAS starts a thread for each core at its import, for 0.04 s of CPU time. No command multiplies large
    # matrices with it; torch and ONNX Runtime have their own threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if package is not None and find_spec(package) is None:
        sys.exit(f"error: {missing_package(package, 'train')}")
    module, _, function = target.partition(":")
    sys.exit(getattr(import_module(module), function)())


def missing_package(package: str | None, extra: str) -> str:
    """Return the message for a missing package, with the commands that install the extra."""
    target, pip = MAKE_TARGETS.get(extra, "install"), f"pip install '.[{extra}]'"
    how = f"in the project's folder, run `make {target}`, or `{pip}` in an environment of your own"
    return f"this needs the package {package!r}; {how}"


def install_sigint_exit() -> None:
    """Make Ctrl-C end the process at once, with one line and exit code 130.

    KeyboardInterrupt would unwind through half-imported packages, and some packages catch it.
    Nothing changes where Ctrl-C is already ignored, as in a shell's background processes.
    """
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt):
        signal.signal(signal.SIGINT, _exit)


def restore_sigint() -> bool:
    """Let Ctrl-C raise KeyboardInterrupt again, after an import; return whether `install_sigint_exit` was active."""
    installed = signal.getsignal(signal.SIGINT) is _exit
    if installed:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable
    return installed


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as a signal handler; during an import, wait for its end.

    Packages written in C turn a KeyboardInterrupt during their import into an ImportError.
    """
    while frame is not None:
        if frame.f_code.co_filename == IMPORT_FILE:
            _send_again()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _unraisable(unraisable: Any) -> None:
    """Send Ctrl-C again where Python has dropped its exception, as the hook for exceptions that cannot be raised.

    A KeyboardInterrupt in `__del__` or in a callback of a weak reference ends there, and the command would continue.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        _send_again()
    else:
        sys.__unraisablehook__(unraisable)


def _send_again() -> None:
    """Send Ctrl-C to this process in a moment."""
    from threading import Timer

    timer = Timer(REPEAT_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True  # a command that ends meanwhile does not wait
    timer.start()


def _exit(*_: object) -> None:
    """End the process, as a signal handler."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(130)
