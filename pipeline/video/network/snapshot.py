"""A camera whose address shows one picture: it is fetched again and again. HTTP by Python's urllib."""

from __future__ import annotations

import hashlib
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import suppress
from fractions import Fraction
from http.client import HTTPException, HTTPMessage, HTTPResponse
from io import BytesIO
from typing import IO, Any

from common.errors import MediaError
from common.images import Pixels, decode_photo
from pipeline.video.network.address import NetworkAddress

DEFAULT_FETCHES_PER_SECOND = 2.0  # where --max-fps is not given: few cameras make more pictures
MAX_BYTES = 50_000_000  # of one picture
CHUNK_BYTES = 65_536
MAX_WAIT = 24 * 3600.0  # seconds between two fetches
DRAWINGS = ("image/svg+xml",)  # never from a camera
STREAM_KINDS = ("multipart/", "video/", "audio/")


class SnapshotCamera:
    """Fetches the picture at an HTTP address, at most `rate` times per second."""

    def __init__(
        self, address: NetworkAddress, name: str, timeout: float, rate: float = DEFAULT_FETCHES_PER_SECOND
    ) -> None:
        """Make a camera; nothing is fetched yet.

        Args:
            address: an HTTP address.
            name: name in errors, without a password.
            timeout: seconds that one picture may take.
            rate: most fetches per second.
        """
        self.name, self.rate = name, max(Fraction(rate).limit_denominator(1000), Fraction(1, 1000))
        self._url, self._timeout, self._step = address.url_without_password, timeout, 1 / rate
        self._opener = _opener(address)
        self._checked: Pixels | None = None  # the picture of `shows_pictures`

    def live_frames(self, wait: Callable[[float], object] = time.sleep) -> Generator[Pixels]:
        """Yield the picture, fetched again and again; raise MediaError where one cannot be fetched or read.

        Args:
            wait: waits for some seconds; returns True to end.
        """
        stopped: object = False
        while not stopped:
            due = time.monotonic() + self._step
            checked, self._checked = self._checked, None
            yield self.fetch() if checked is None else checked
            stopped = wait(min(max(due - time.monotonic(), 0.0), MAX_WAIT))

    def fetch(self) -> Pixels:
        """Return the present picture, uint8 (H, W, 3) RGB and upright; raise MediaError where that fails."""
        return self._decode(*self._get())

    def shows_pictures(self) -> bool:
        """Fetch once, and return whether the answer is a picture: by its Content-Type, or else by its content.

        The picture becomes the first one of `live_frames`.
        """
        try:
            kind, data = self._get()
        except MediaError:
            return False
        with suppress(MediaError):
            self._checked = self._decode(kind, data)
        return self._checked is not None or (kind.startswith("image/") and kind not in DRAWINGS)

    def _decode(self, kind: str, data: bytes) -> Pixels:
        if kind.startswith(STREAM_KINDS):
            raise MediaError(self.name, f"sends {kind} instead of a picture; check its address")
        if not data:
            raise MediaError(self.name, "sent an empty answer; check its address")
        return decode_photo(BytesIO(data), self.name).pixels

    def _get(self) -> tuple[str, bytes]:
        """Return the answer's Content-Type and body; the body of a stream is not read."""
        headers = {"User-Agent": "face-mask-detection", "Accept": "image/*, */*;q=0.5", "Cache-Control": "no-cache"}
        until = time.monotonic() + self._timeout
        try:
            with self._opener.open(urllib.request.Request(self._url, headers=headers), timeout=self._timeout) as answer:
                kind = answer.headers.get_content_type()
                return kind, b"" if kind.startswith(STREAM_KINDS) else self._read(answer, until)
        except urllib.error.HTTPError as error:
            error.close()
            fix = "check the user and password in its address" if error.code in (401, 403) else "check its address"
            raise MediaError(self.name, f"answered with HTTP status {error.code}; {fix}") from error
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a bad host name
            raise MediaError(self.name, f"cannot be read ({_reason(error)}); check its address") from error

    def _read(self, answer: HTTPResponse, until: float) -> bytes:
        """Return the whole body; raise MediaError where it does not end in time, or is too large."""
        body = bytearray()
        while piece := answer.read1(CHUNK_BYTES):
            body += piece
            if len(body) > MAX_BYTES:
                raise MediaError(self.name, f"sent more than {MAX_BYTES / 1e6:g} MB; check that it is a picture")
            if time.monotonic() > until:
                raise TimeoutError
        if answer.length:  # bytes that the head has promised
            raise MediaError(self.name, "broke off the picture; check the connection")
        return bytes(body)


def _opener(address: NetworkAddress) -> urllib.request.OpenerDirector:
    """Return what opens the address, with basic or digest authentication where the camera asks for it."""
    # Cameras make their certificates themselves. FFmpeg, which has opened the address before, checks none either.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if address.user is not None:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, f"{address.scheme}://{address.host}/", address.user, address.password)
        handlers += [_BasicAuthHandler(passwords), _DigestAuthHandler(passwords)]
    return urllib.request.build_opener(*handlers)


class _BasicAuthHandler(urllib.request.HTTPBasicAuthHandler):
    """Basic authentication; urllib's raises ValueError where a camera offers only another kind."""

    def http_error_401(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> Any:  # as in urllib
        offered = any(each.lower().startswith("basic") for each in headers.get_all("WWW-Authenticate", []))
        tried = req.has_header(self.auth_header)
        return super().http_error_401(req, fp, code, msg, headers) if offered and not tried else None


class _DigestAuthHandler(urllib.request.HTTPDigestAuthHandler):
    """Digest authentication, also with SHA-256; a password is tried once, because many cameras lock after some tries.

    urllib's looks at the first offer only, and knows ASCII passwords only.
    """

    def http_error_401(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> Any:  # as in urllib
        for offer in headers.get_all("WWW-Authenticate", []):
            if offer.lower().startswith("digest") and not req.has_header(self.auth_header):
                chosen = HTTPMessage()
                chosen["WWW-Authenticate"] = offer
                with suppress(ValueError):  # an algorithm that is not known: try the next offer
                    return super().http_error_401(req, fp, code, msg, chosen)
        return None

    def get_algorithm_impls(self, algorithm: str) -> Any:
        """Return the hash functions H and KD of RFC 7616."""
        make = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}.get(algorithm.upper())
        if make is None:
            return super().get_algorithm_impls(algorithm)

        def digest(text: str) -> str:
            return make(text.encode()).hexdigest()

        return digest, lambda secret, data: digest(f"{secret}:{data}")


def _reason(error: Exception) -> str:
    """Return why a fetch failed, in the words of FFmpeg where it has some."""
    cause = getattr(error, "reason", error)  # urllib wraps it in a URLError
    if isinstance(cause, TimeoutError):
        return "no data in time"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
