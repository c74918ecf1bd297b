"""Start a command as a program; Ctrl-C works before any package is loaded. This module imports nothing heavy."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from common.interrupts import install_sigint_exit


def start(target: str, package: str | None = None) -> None:
    """Load a command's module, call its function, and exit with the code that the function returns.

    Args:
        target: the command's function, as "module:function".
        package: a package of the `train` extra that the module needs; without it, the error has the install command.
    """
    install_sigint_exit()
    if package is not None and find_spec(package) is None:
        sys.exit(f"error: {missing_package(package, 'train')}")
    module, _, function = target.partition(":")
    sys.exit(getattr(import_module(module), function)())


def missing_package(package: str | None, extra: str) -> str:
    """Return the message for a missing package, with the command that installs the extra."""
    return f"this needs the package {package!r}; install it with `pip install -e '.[{extra}]'`"
