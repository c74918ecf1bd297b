"""The error of stage 2 whose message is meant for the person at the keyboard; what stops a command before it starts."""

from __future__ import annotations

import sys
from importlib.util import find_spec


class ClassifierError(Exception):
    """Bad input to stage 2: the message is one line that names the file and the mend."""


def need_training_extra(package: str = "torch") -> None:
    """Ends the program with one line and code 1 when the training extra, which brings `package`, is not installed.

    For a command to call before the imports that would fail with a traceback.
    """
    if find_spec(package) is None:
        sys.exit(f"error: this needs the package {package!r}; install it with `pip install -e '.[train]'`")
