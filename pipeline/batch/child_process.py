"""A process that runs a module of this project, and the messages between it and the one that started it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from typing import IO, Any


class DiedError(Exception):
    """The process ended where an answer was expected; the message says how, as in "SIGKILL"."""


class Process:
    """`python -m MODULE`, which `listen`s. stderr: where its standard error goes; to this process's if not given."""

    def __init__(self, module: str, stderr: IO[bytes] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=None if os.name == "nt" else 0,  # Ctrl-C is the starting process's to handle
        )

    def send(self, message: Any) -> None:
        """Raises DiedError when the process ended."""
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, message)
        except (OSError, ValueError) as error:  # ValueError: closed by now
            raise DiedError(self._ending()) from error

    def receive(self) -> Any:
        """Waits for a message. Raises DiedError when the process ends instead."""
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DiedError(self._ending()) from error

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Asks it to end, and does not wait."""
        self._process.terminate()

    def wait(self) -> None:
        """Waits until it has ended by itself."""
        self._process.wait()

    def _ending(self) -> str:
        """How the process ended, in words; one that only closed its pipe is ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what could not be sent
                if pipe is not None:
                    pipe.close()
        code = self._process.returncode
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"


class ParentPipe:
    """The other end, in the process itself. What libraries print goes to standard error: it must not come between."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def receive(self) -> Any:
        """Waits for a message. Raises EOFError when the starting process is gone."""
        try:
            return pickle.load(sys.stdin.buffer)
        except (OSError, pickle.UnpicklingError) as error:
            raise EOFError from error

    def send(self, message: Any) -> None:
        """Raises OSError when the starting process is gone."""
        _write(self._answers, message)


def _write(pipe: Any, message: Any) -> None:
    pickle.dump(message, pipe)
    pipe.flush()
