"""Reads addresses with a user and a password, also where the password holds @ : / ? or #; never shows one."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote, unquote

from common.errors import MediaError

# How RFC 3986 wants these signs in a user name or password.
ENCODING_HINT = "write @ : / ? # % in a user or password as %40 %3A %2F %3F %23 %25"
_ENCODED_USERINFO = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*")
_HOST_PORT = re.compile(r"(?P<host>\[[^\]/?#@]+\]|[^\s/?#@:\[\]]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class NetworkAddress:
    """An address in parts."""

    written: str  # the whole address as given
    scheme: str  # such as rtsp
    user: str | None  # decoded; None where the address has none
    password: str  # decoded; empty where the address has none
    host: str  # host and port as written
    rest: str  # path, query and fragment as written
    encoded: bool  # whether user and password are written as RFC 3986 wants it

    @property
    def url(self) -> str:
        """The address as given, but with user and password encoded where they are not."""
        if self.user is None or self.encoded:
            return self.written
        return f"{self.scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{self.host}{self.rest}"

    @property
    def url_without_password(self) -> str:
        """The address without user, password and fragment, encoded for HTTP."""
        rest = quote(self.rest.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]")
        return f"{self.scheme}://{self.host}{rest if rest.startswith('/') else '/' + rest}"


def parse_address(address: str) -> NetworkAddress:
    """Return the parts of an address.

    The last @ before the host ends the password, so a password may hold @ : / ? and # where only one reading of the
    address names a host.

    Raises:
        MediaError: the address can be read in several ways; the message does not show the password.
    """
    scheme, _, text = address.partition("://")
    end = _end_of_userinfo(text)
    if end is None:
        pattern = f"as in {scheme}://USER:PASS%40WORD@HOST/PATH"
        what = f"it is not clear where its password ends; {ENCODING_HINT}, {pattern}, and @ in a path as %40"
        raise MediaError(redact_address(address), what)
    userinfo, after = (text[:end], text[end + 1 :]) if end >= 0 else ("", text)
    host = re.split("[/?#]", after, maxsplit=1)[0]
    user, _, password = userinfo.partition(":")
    encoded = _ENCODED_USERINFO.fullmatch(userinfo) is not None
    return NetworkAddress(
        address, scheme, unquote(user) if end >= 0 else None, unquote(password), host, after[len(host) :], encoded
    )


def redact_address(address: str) -> str:
    """Return an address that is safe to print: without user name, password and query."""
    scheme, _, text = address.partition("://")
    if _end_of_userinfo(text) != -1:
        text = text.rpartition("@")[2]  # rather too little than a part of a password
    return f"{scheme}://{re.split('[?#]', text)[0]}"


def _end_of_userinfo(text: str) -> int | None:
    """Return the place of the @ that ends user and password; -1 without them, None where several readings fit."""
    if "@" not in text:
        return -1
    standard = re.split("[/?#]", text, maxsplit=1)[0].rfind("@")  # as RFC 3986 reads it
    readings = dict(_readings(text, standard))
    if len(readings) <= 1:
        return next(iter(readings), standard)
    if readings.get(standard) and not any(certain for end, certain in readings.items() if end != standard):
        return standard
    return None


def _readings(text: str, standard: int) -> Iterator[tuple[int, bool]]:
    """Yield each place where user and password may end, and whether a host certainly follows; -1 is without them."""
    ends = [standard, *(match.start() for match in re.finditer("@", text) if match.start() > standard)]
    for end in ends:
        after = text[end + 1 :]
        host = re.split("[/?#]", after, maxsplit=1)[0]
        user = text[: max(end, 0)].partition(":")[0]
        before_next = after[len(host) :].rpartition("@")[0] if "@" in after[len(host) :] else None
        if not _is_host(host) or re.search("[/?#]", user):
            continue
        if before_next is not None and (before_next.startswith("#") or re.match(r"\?[^=]*$", before_next)):
            continue  # nobody writes a fragment or a nameless query right after the host: this is a password
        if end != standard and (text[end - 1] == "/" or re.search(r"\?[^@]*=", text[standard + 1 : end])):
            continue  # a part of the path that begins with @, or a value of the query
        yield end, _is_certain_host(host)


def _is_host(text: str) -> bool:
    """Return whether a text can be a host, with or without a port."""
    match = _HOST_PORT.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        return False
    last_label = match["host"].rstrip(".").rpartition(".")[2]
    return _is_ip(match["host"]) or last_label[:1].isalpha()


def _is_certain_host(text: str) -> bool:
    """Return whether a host is an IP address or a name with dots: hardly a part of a password."""
    host = _HOST_PORT.fullmatch(text)
    return host is not None and (_is_ip(host["host"]) or "." in host["host"] or host["host"] == "localhost")


def _is_ip(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    return False
