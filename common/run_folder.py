"""RunFolder: the folder of a long run, which one process holds at a time and which only the same run resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.display import display_name
from common.errors import UserError
from common.files import with_file_name, write_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"
ROWS_NAME = "log.jsonl"


class RunFolder:
    """The files of one run. A record (JSON) says which run it is; a lock keeps other processes out.

    Every file is replaced in one step, so that a killed run leaves the old file or the new one.
    """

    def __init__(
        self,
        path: Path | str,
        kind: str,
        flag: str = "--out",
        record_name: str = "config.json",
        outputs: Sequence[str] = (),
        free_keys: Sequence[str] = (),
        marker: str | None = None,
    ) -> None:
        """Describe a folder; nothing is read or written.

        Args:
            path: the folder.
            kind: what the folder holds, for messages, such as "fine-tuning".
            flag: the command's option that names the folder, for messages.
            record_name: name of the record's file.
            outputs: the run's files, in the order in which `claim` removes them; the record's file is removed last.
                Without outputs the run cannot be overwritten.
            free_keys: keys of the record in which a resumed run may differ.
            marker: a key that every record of this kind has, to tell other kinds of run.
        """
        self.path = Path(path)
        self.kind, self.flag, self.marker = kind, flag, marker
        self.record_file = self.path / record_name
        self.outputs, self.free_keys = tuple(outputs), frozenset(free_keys)

    @contextmanager
    def held(self, record: Mapping[str, Any], overwrite: bool = False) -> Iterator[bool]:
        """Lock the folder and `claim` it for the block; gives whether the run resumes."""
        self.refuse_other_files()
        self.path.mkdir(parents=True, exist_ok=True)
        with lock_folder(self.path):
            yield self.claim(record, overwrite)

    def claim(self, record: Mapping[str, Any], overwrite: bool = False) -> bool:
        """Take the folder for the run that `record` describes, or resume that run.

        Args:
            record: everything that the run's result depends on, as JSON values.
            overwrite: remove the run that the folder holds.

        Returns:
            Whether the run resumes. A record without any other file does not count: nothing was done yet.

        Raises:
            UserError: the folder holds another run or other files, or the record is damaged.
        """
        self.refuse_other_files()
        if self.record_file.is_file():
            if not overwrite and self._has_files():
                self.check_same(record)
                return True
            if not overwrite or self.marker is not None:
                self.read_record(overwrite)  # refuses a damaged one, and one of another kind
            if overwrite:
                for name in (*self.outputs, self.record_file.name):  # a kill on the way leaves a folder known as a run
                    (self.path / name).unlink(missing_ok=True)
        self.write_json(self.record_file.name, record)
        return False

    def read_record(self, overwrite: bool = False) -> dict[str, Any]:
        """Return the record, which may be read to `overwrite` the run.

        Raises UserError where it is damaged or of another kind of run.
        """
        try:
            record = dict(json.loads(self.record_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.record_file}: damaged ({error}); give {self._advice(overwrite)}") from error
        if self.marker is not None and self.marker not in record:
            raise UserError(f"{self.path}: holds a run of another kind; give another {self.flag}")
        return record

    def check_same(self, record: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
        """Raise UserError, naming the first difference, where the folder's record is not `record`.

        Args:
            record: the run that is to resume.
            before: the folder's record, where the caller has read it already.
        """
        before = self.read_record() if before is None else before
        now = json.loads(json.dumps(record))
        for name in sorted(now.keys() - self.free_keys):
            if before.get(name) != now[name]:
                what = f"holds a {self.kind} with another {name} ({before.get(name)!r}, now {now[name]!r})"
                raise UserError(f"{self.path}: {what}; use the same, or give {self._advice()}")

    def write(self, name: str, data: bytes) -> None:
        """Replace a file of the run in one step."""
        write_bytes(self.path / name, data)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file of the run with indented JSON."""
        self.write(name, (json.dumps(value, indent=2) + "\n").encode())

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines of log.jsonl, one per epoch; none where there is no log. Raises UserError on damage."""
        file = self.path / ROWS_NAME
        if not file.is_file():
            return []
        try:
            return [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}: damaged ({error}); give {self._advice()}") from error

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace log.jsonl: one JSON object per line."""
        self.write(ROWS_NAME, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def refuse_other_files(self) -> None:
        """Raise UserError where the folder holds files, and no run of this kind."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; give another {self.flag}")
        if not self.record_file.is_file() and self._has_files():
            raise UserError(f"{self.path}: holds other files and no {self.kind}; give another {self.flag}")

    def _has_files(self) -> bool:
        """Whether there are files besides the record. Hidden ones are the lock, and what a killed process left."""
        return self.path.is_dir() and any(f != self.record_file and f.name[0] != "." for f in self.path.iterdir())

    def _advice(self, overwrite: bool = False) -> str:
        may_overwrite = self.outputs and not overwrite
        return f"--overwrite or another {self.flag}" if may_overwrite else f"another {self.flag}"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder inside the block. On Windows nothing is held.

    The system knows whether the lock is held, not the file: a file that a killed process left is taken over.

    Raises:
        UserError: another process holds the folder.
        OSError: the folder cannot be written.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK_NAME
    while True:
        with with_file_name(folder):
            file = path.open("a+", encoding="ascii")
        with file:
            try:
                with with_file_name(folder):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                what = f"process {holder} works here; wait for it or end it, or use another folder"
                raise UserError(f"{display_name(folder)}: {what}") from error
            same = False
            with suppress(FileNotFoundError):
                same = path.stat().st_ino == os.fstat(file.fileno()).st_ino
            if not same:  # the holder removed the file at this moment
                continue
            try:
                with with_file_name(folder):
                    file.truncate(0)
                    os.write(file.fileno(), str(os.getpid()).encode())  # not buffered: closing would write it again
                yield
            finally:
                path.unlink(missing_ok=True)
            return
