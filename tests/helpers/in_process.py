"""Commands run inside the test process: the start of a process takes seconds."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from importlib import import_module
from unittest import mock


def run_in_process(module: str, arguments: Sequence[str]) -> int:
    """Run what `python -m MODULE ARGUMENTS` runs, and return its exit code."""
    with mock.patch("common.launcher.start") as start:
        runpy.run_module(module, run_name="__main__")
    command_module = start.call_args.args[0].partition(":")[0]
    return import_module(command_module).main(list(arguments))  # not `main_as_process`, which ends the process
