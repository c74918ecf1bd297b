"""Storage of photos and results: this machine's files, or an address that pyarrow or fsspec understands."""

# os.path, not pathlib, as in common/paths.py: names are compared and written as text.
# ruff: noqa: PTH100, PTH112, PTH123

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pyarrow
from pyarrow import fs as arrow_fs

from common.cli import requires_extra
from common.errors import UserError, first_line
from common.files import write_bytes
from common.paths import is_address

PathKind = Literal["file", "folder", "none"]
# A file of an object store appears as a whole when it is closed, or not at all; moving it would copy it.
_OBJECT_STORES = ("s3", "gcs", "abfs")
_BUCKET_SCHEMES = ("s3", "gs", "gcs")  # the path begins with the bucket, and a bucket's name is unique
_AZURE_SCHEMES = ("abfs", "abfss")  # the user is the account or the container
# Options of an address that belong to a name: the server, and how it is reached. Others may be secret.
_SERVER_OPTIONS = ("endpoint_override", "blob_storage_authority", "dfs_storage_authority")
_NAME_OPTIONS = (*_SERVER_OPTIONS, "scheme", "enable_tls")
# What follows the path of an address: "?" and options, or "::" and the archive's address, as in zip://a/::s3://b/c.zip.
_TAIL = re.compile(r"\?|::(?=(?:[a-z0-9]+::)*[a-z][a-z0-9+.-]+://)", re.IGNORECASE)


class _Naming(NamedTuple):
    """How a file's name is made of its path: without `root`, between `start` and `end`."""

    start: str = ""
    root: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A file or subfolder of a folder. path: on its storage."""

    path: str
    is_folder: bool

    @property
    def name(self) -> str:
        """The name in the folder."""
        return self.path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Storage:
    """A file system. It can be sent to another process, which opens it by its address.

    Every method but `name` may raise OSError.
    """

    address: str | None = None  # any address on the file system; None for this machine's files
    naming: _Naming = field(default_factory=_Naming)

    @property
    def is_local(self) -> bool:
        """Whether this is the storage of this machine's files."""
        return self.address is None

    @property
    def is_private(self) -> bool:
        """Whether no other process can see the files (memory://)."""
        return self.address is not None and urlsplit(self.address).scheme == "memory"

    def name(self, path: str) -> str:
        """Return a file's name in the results: its absolute path or its address, as valid Unicode.

        An address has the host and the options that name a server, but no password and no other option.
        Bytes that are not UTF-8 become \\xNN, so that different names stay different.
        """
        if self.address is None:
            return os.fsencode(path).decode("utf-8", "backslashreplace")
        if is_address(path):  # the paths of http:// are addresses
            return without_secrets(path, strict=False)
        start, root, end = self.naming
        return f"{start}{path.lstrip('/').removeprefix(root)}{end}"

    def earlier_name(self, path: str) -> str:
        """Return the name that a file had in results before 2026-12: without the server of an address."""
        return self.name(path) if self.address is None else f"{urlsplit(self.address).scheme}://{path.lstrip('/')}"

    def kind(self, path: str) -> PathKind:
        """Return whether `path` is a file, a folder or does not exist."""
        if self.address is None:
            return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else "none"
        with _as_os_error(self.address):
            found = self._fs.get_file_info([path])[0].type
        kinds: dict[Any, PathKind] = {arrow_fs.FileType.NotFound: "none", arrow_fs.FileType.Directory: "folder"}
        return kinds.get(found, "file")

    def entries(self, folder: str) -> list[FolderEntry]:
        """Return the entries of a folder, sorted by path; links to folders count as folders."""
        if self.address is None:
            with os.scandir(folder) as listing:
                entries = [FolderEntry(each.path, each.is_dir()) for each in listing]
        else:
            with _as_os_error(self.address):
                infos = self._fs.get_file_info(arrow_fs.FileSelector(folder))
            entries = [FolderEntry(info.path, info.type == arrow_fs.FileType.Directory) for info in infos]
        return sorted(entries, key=lambda entry: entry.path)

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading; the file can seek."""
        if self.address is None:
            return open(path, "rb")
        with _as_os_error(self.address):
            return cast(BinaryIO, self._fs.open_input_file(path))

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        with self.open(path) as file, _as_os_error(self.address or ""):
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        """Write a file in one step: a kill leaves the old file, no file, or the new file."""
        if self.address is None:
            write_bytes(path, data)
            return
        folder, _, name = path.rpartition("/")
        atomic = self._fs.type_name in _OBJECT_STORES
        written = path if atomic else f"{folder}/.{name}.tmp"
        with _as_os_error(self.address):
            with self._fs.open_output_stream(written) as file:
                file.write(data)
            if not atomic:
                self._fs.move(written, path)

    def make_folder(self, path: str) -> None:
        """Make a folder and its missing parents."""
        if self.address is None:
            Path(path).mkdir(parents=True, exist_ok=True)
        else:
            with _as_os_error(self.address):
                self._fs.create_dir(path, recursive=True)

    def delete(self, path: str) -> None:
        """Remove a file, if it exists."""
        if self.address is None:
            Path(path).unlink(missing_ok=True)
        elif self.kind(path) != "none":
            with _as_os_error(self.address):
                self._fs.delete_file(path)

    @property
    def _fs(self) -> Any:
        assert self.address is not None
        return _file_system(self.address)[0]


LOCAL = Storage()


def resolve_storage(name: str) -> tuple[Storage, str]:
    """Return the storage of a path or address, and the path on it. A file:// address is a path of this machine.

    Raises UserError when neither pyarrow nor fsspec can open the address; the message holds no password.
    """
    if not is_address(name):
        return LOCAL, os.path.abspath(name)
    shown = without_secrets(name)
    if name.lower().startswith("file://"):
        parts = urlsplit(name)
        if parts.netloc not in ("", "localhost"):
            host = parts.netloc.rpartition("@")[2]
            raise UserError(f"{shown}: names the machine {host!r}; write file:///PATH with three slashes")
        return LOCAL, os.path.abspath(unquote(parts.path))
    try:
        _, path = _file_system(name)
    except OSError as error:
        raise UserError(f"{shown}: cannot be opened ({_error_line(error, name)}); check the address") from error
    if not path.strip("/"):
        raise UserError(f"{shown}: names no file or folder; add a path to it")
    return Storage(name, _naming(name, path)), path.rstrip("/")


def split_tail(address: str) -> tuple[str, str]:
    """Return an address up to its path, and what follows: its options or an archive's address. A path has no tail."""
    found = _TAIL.search(address) if is_address(address) else None
    return (address, "") if found is None else (address[: found.start()], address[found.start() :])


def without_secrets(address: str, strict: bool = True) -> str:
    """Return an address without user, password and options that may be secret; a path as it is.

    Args:
        address: address or path.
        strict: whether to leave out all before the last "@", for an address that cannot be opened: a password may hold
            "/" or "?".
    """
    if not is_address(address):
        return address
    place, tail = split_tail(address)
    scheme, _, rest = place.partition("://")
    userinfo, host, path = _split_authority(rest)
    if strict and (userinfo or ":" in host) and "@" in path + tail:
        return without_secrets(f"{scheme}://{(path + tail).rpartition('@')[2]}")
    account = _account(scheme, userinfo)
    return f"{scheme}://{account}{host}{path}{_public_tail(scheme, tail)}"


def _split_authority(rest: str) -> tuple[str, str, str]:
    """Return the user with the password, the host with the port, and the path of an address without its scheme."""
    authority = re.split("[/#]", rest, maxsplit=1)[0]
    userinfo, _, host = authority.rpartition("@")
    return userinfo, host, rest[len(authority) :]


def _account(scheme: str, userinfo: str) -> str:
    """Return the part of the user that names a place, with its "@": an account of Azure, a repository of GitHub."""
    if scheme in _AZURE_SCHEMES:
        userinfo = userinfo.partition(":")[0]
    elif scheme != "github":
        return ""
    return f"{userinfo}@" if userinfo else ""


def _public_tail(scheme: str, tail: str) -> str:
    """Return the part of an address's tail that belongs to a name. A query of http:// becomes a hash."""
    if tail.startswith("::"):
        return "".join(f"::{without_secrets(link, strict=False)}" for link in tail[2:].split("::"))
    if tail and scheme in ("http", "https"):
        return f"?{blake2b(tail.encode('utf-8', 'backslashreplace'), digest_size=8).hexdigest()}"
    options = dict(parse_qsl(tail[1:].partition("#")[0]))
    if not any(option in options for option in _SERVER_OPTIONS):
        return ""
    kept = {option: re.sub(r"^(\w+://)?.*@", r"\1", options[option]) for option in _NAME_OPTIONS if option in options}
    return "?" + "&".join(f"{key}={quote(value, ':/', errors='backslashreplace')}" for key, value in kept.items())


def _naming(address: str, path: str) -> _Naming:
    """Return how the files of a file system are named.

    Args:
        address: of a file or folder on it.
        path: of the same file or folder; it may begin with the address's bucket or container.
    """
    place, tail = split_tail(address)
    scheme, _, rest = place.partition("://")
    userinfo, host, below = _split_authority(rest)
    end, account = _public_tail(scheme, tail), _account(scheme, userinfo)
    if scheme in _BUCKET_SCHEMES or scheme == "memory":
        return _Naming(f"{scheme}://", "", end)
    first = path.lstrip("/").partition("/")[0]
    if path.strip("/") not in (below.strip("/"), unquote(below).strip("/")):  # it begins with a part of the authority
        if first == host:
            return _Naming(f"{scheme}://{account}", "", end)
        if f"{first}@" == account:
            return _Naming(f"{scheme}://{account}{host}/", f"{first}/", end)
    return _Naming(f"{scheme}://{account}{host}/", "", end)


def _error_line(error: Exception, address: str) -> str:
    """Return an error's first line without the address's password and options."""
    userinfo = _split_authority(split_tail(address)[0].partition("://")[2])[0]
    line = first_line(error).replace(address, without_secrets(address))
    return line.replace(f"{userinfo}@", "") if userinfo else line


@lru_cache(maxsize=64)
def _file_system(address: str) -> tuple[Any, str]:
    """Return an address's file system, pyarrow's rather than fsspec's, and the path on it. Raises OSError."""
    try:
        return cast(tuple[Any, str], arrow_fs.FileSystem.from_uri(address))
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise OSError(first_line(error)) from error
    except Exception as error:  # each file system raises its own kind
        raise OSError(first_line(error)) from error
    with requires_extra("batch"):
        import fsspec  # type: ignore[import-untyped]
    with _as_os_error(address):
        system, path = fsspec.core.url_to_fs(address)
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(system)), cast(str, path)


@contextmanager
def _as_os_error(address: str) -> Iterator[None]:
    """Turn any exception of an address's file system into an OSError of one line, which holds no password."""
    try:
        yield
    except Exception as error:
        raise OSError(_error_line(error, address)) from error
