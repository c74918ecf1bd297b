"""A child process that runs a module of this project, and the messages between parent and child.

The child is `python -m pipeline.batch.child_process MODULE`. An error of the module, also at its import, becomes its
last message, and `ChildProcess.receive` raises the error.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import IO, Any

from common.errors import ProgrammingError, UserError


class ProcessDiedError(Exception):
    """The process ended before it answered; the message says how, as in "SIGKILL"."""


class ChildProcess:
    """Runs `main(ParentPipe)` of a module in a child process.

    Args:
        module: the module's name.
        stderr: file for the process's standard error; None: the parent's.
    """

    def __init__(self, module: str, stderr: IO[bytes] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.batch.child_process", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=None if os.name == "nt" else 0,  # the parent alone handles Ctrl-C
        )

    def send(self, message: Any) -> None:
        """Send a message. Raises ProcessDiedError when the process ended."""
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, message)
        except (OSError, ValueError) as error:  # ValueError: the pipe is closed
            raise ProcessDiedError(self._exit_reason()) from error

    def receive(self) -> Any:
        """Wait for a message.

        Raises:
            ProcessDiedError: the process ended instead.
            UserError: it cannot use its input.
            ProgrammingError: any other error in it.
        """
        assert self._process.stdout is not None
        try:
            message = pickle.load(self._process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise ProcessDiedError(self._exit_reason()) from error
        if isinstance(message, UserError | ProgrammingError):
            self._exit_reason()
            raise message
        return message

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Ask the process to end, without waiting."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait until the process ended by itself."""
        self._process.wait()

    def _exit_reason(self) -> str:
        """Return how the process ended; a process that only closed its pipe is killed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # some data was not sent
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
    """The child's end of the pipes. It sends what libraries print to standard error, to keep the messages intact."""

    def __init__(self) -> None:
        self._output = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def receive(self) -> Any:
        """Wait for a message. Raises EOFError when the parent ended."""
        try:
            return pickle.load(sys.stdin.buffer)
        except (OSError, pickle.UnpicklingError) as error:
            raise EOFError from error

    def send(self, message: Any) -> None:
        """Send a message. Raises OSError when the parent ended."""
        _write(self._output, message)


def _write(pipe: Any, message: Any) -> None:
    pickle.dump(message, pipe)
    pipe.flush()


def _to_send(error: Exception) -> UserError | ProgrammingError:
    """Return an error as the parent raises it; the classes of other errors may not be there."""
    if isinstance(error, ProgrammingError):
        return error
    return UserError(str(error)) if isinstance(error, UserError | OSError) else ProgrammingError.of(error)


def main(module: str) -> None:
    """Run `main` of a module with the pipe to the parent; an error is sent to the parent."""
    pipe = ParentPipe()
    try:
        import_module(module).main(pipe)
    except MemoryError:
        os._exit(1)  # the parent reports which photo needs so much
    except Exception as error:
        with suppress(OSError):  # the parent ended
            pipe.send(_to_send(error))
        sys.stderr.flush()
        os._exit(1)  # not sys.exit: a thread may still wait for a message


if __name__ == "__main__":
    main(sys.argv[1])
