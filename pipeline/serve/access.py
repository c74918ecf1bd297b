"""Checks the flags of a reverse proxy and of other pages: --root-path, --allow-host, --allow-origin."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from common.display import display_name
from common.errors import UserError

# The first parts of this server's own paths. A prefix of such a name could not be told from them.
OWN_FIRST_PARTS = ("v1", "metrics", "docs", "openapi.json", "static", "static-offline-docs")
ANY_ORIGIN = "*"
DEFAULT_PORTS = {"http": 80, "https": 443}  # browsers leave these out of an origin
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")


def checked_root_path(root_path: str) -> str:
    """Return the path prefix of a proxy without a slash at its end; "" and "/" mean that there is no prefix.

    Raises:
        UserError: it is not a path prefix, or begins as one of this server's own paths.
    """
    path = root_path.rstrip("/")
    if not path:
        return ""
    flag = f"--root-path {display_name(root_path)}"
    if not _ROOT_PATH.fullmatch(path):
        raise UserError(f"{flag}: is not a path prefix; give one such as /mask, of letters, digits and . _ ~ -")
    if path.split("/")[1] in OWN_FIRST_PARTS:
        raise UserError(f"{flag}: begins as one of the server's own paths; give another prefix, such as /mask")
    return path


def checked_hosts(hosts: Sequence[str]) -> set[str]:
    """Return the names of --allow-host as the Host header has them: in lower case, without port and brackets.

    Raises:
        UserError: one is not the name of a host.
    """
    return {_checked_host(host) for host in hosts}


def _checked_host(host: str) -> str:
    flag = f"--allow-host {display_name(host)}"
    name = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).compressed
    except ValueError:
        pass
    if "*" in name:
        raise UserError(f"{flag}: names no single host; repeat the flag, once for each name")
    try:
        name = name.encode("idna").decode()  # as browsers send other letters
    except UnicodeError:
        name = ""
    if not _HOST_NAME.fullmatch(name):
        raise UserError(f"{flag}: is not a host name; give one such as mask.example.org, without http:// and port")
    return name


def checked_origins(origins: Sequence[str], has_token: bool) -> set[str]:
    """Return the origins of --allow-origin as browsers send them.

    Args:
        origins: the values of the flag.
        has_token: whether the server requires a token; without one, ANY_ORIGIN is refused.

    Raises:
        UserError: one is not an origin, or is too wide.
    """
    if ANY_ORIGIN in origins and not has_token:
        why = "would let every web page use this server"
        raise UserError(f"--allow-origin *: {why}; set MASK_TOKEN to require a token, or name the origins")
    return {origin if origin == ANY_ORIGIN else _checked_origin(origin) for origin in origins}


def _checked_origin(origin: str) -> str:
    flag = f"--allow-origin {display_name(origin)}"
    if origin.lower() == "null":
        raise UserError(f"{flag}: is the origin of every local file and sandbox; serve the page by a web server")
    try:
        parts = urlsplit(origin.lower())
        host, port = parts.hostname or "", parts.port
        host = host if ":" in host else host.encode("idna").decode()
    except (ValueError, UnicodeError):
        parts, host, port = urlsplit(""), "", None
    literal = ":" in host  # an IPv6 address, which urlsplit has checked
    whole = parts.path in ("", "/") and not parts.query and not parts.fragment and "@" not in parts.netloc
    if parts.scheme not in DEFAULT_PORTS or not whole or not (literal or _HOST_NAME.fullmatch(host)):
        raise UserError(f"{flag}: is not an origin; give scheme and host, as https://app.example.org, without a path")
    host = f"[{host}]" if literal else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, DEFAULT_PORTS[parts.scheme]) else "")
