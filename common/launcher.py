"""Starts a command as a program, and handles Ctrl-C before any package is loaded. Imports nothing heavy."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from common.interrupts import install_sigint_exit


def start(target: str, package: str | None = None) -> None:
    """Run a command as a program: load its module, call its function and exit with the code that this returns.

    Ctrl-C ends the process with one line from the first moment on, also while packages load.

    Args:
        target: the command's function, as "module:function".
        package: a package of the `train` extra that the module imports; where it is missing, one line says how to
            install it.
    """
    install_sigint_exit()
    if package is not None and find_spec(package) is None:
        sys.exit(f"error: {missing_package(package, 'train')}")
    module, _, function = target.partition(":")
    sys.exit(getattr(import_module(module), function)())


def missing_package(package: str | None, extra: str) -> str:
    """Return the message for a package that is not installed, with the command that installs it."""
    return f"this needs the package {package!r}; install it with `pip install -e '.[{extra}]'`"
