"""The HTTP API and the web page as an application: routes, and every error as JSON."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Collection
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection

from common.display import shown
from common.errors import MediaError, TooManyPixelsError
from common.paths import FoundImage
from pipeline.inference.results import image_result
from pipeline.serve.body_parser import HOW_TO_SEND, Upload, body_parser
from pipeline.serve.limiter import ClientDisconnectedError, RequestLimiter
from pipeline.serve.limits import Limits
from pipeline.serve.metrics import ServeMetrics
from pipeline.serve.middleware import Guard, error_response
from pipeline.serve.schema import DETECT_BODY, Health, PhotoFaces, refusals

if TYPE_CHECKING:
    from pipeline.inference.predictor import Predictor

VERSION = "0.1.0"
STATIC = Path(__file__).parent / "static"
DOCS_FILES = "/static-offline-docs"  # where fastapi-offline serves Swagger UI from
COUNTED_PATHS = (
    "/",
    "/v1/detect",
    "/v1/model",
    "/v1/health",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/static/*",
    DOCS_FILES + "/*",
)
VALUE_HINTS = {"min_score": "give a number from 0 to 1", "min_face": "give 1 pixel or more"}
CLIENT_CLOSED_REQUEST = 499  # counted for clients that left; nobody gets it


def create_app(
    predictor: Predictor,
    limits: Limits,
    token: str | None = None,
    workers: int = 1,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """The application that detects with `predictor`, on which its `state.turns` tells what is under way.

    token: asked for by everything that tells of photos or of the server; none is without. workers: photos gone
    through at a time. hosts: names under which the server may be addressed; any when None.
    """
    app: FastAPI = FastAPIOffline(
        title="Face mask detection",
        version=VERSION,
        description="Finds the faces in a photo and tells how each wears its mask. Nothing is stored.",
        docs_url=None,
        redoc_url=None,
        static_url=DOCS_FILES,
        redirect_slashes=False,
    )
    turns = app.state.turns = RequestLimiter(workers, limits)
    metrics = ServeMetrics(COUNTED_PATHS, predictor.bundle.meta.class_names, lambda: turns.in_flight)
    app.add_middleware(Guard, hosts=hosts, counted=metrics.count_request)
    _answer_errors(app)
    _add_pages(app)
    locked = [] if token is None else [Depends(BearerToken(token))]

    @app.post(
        "/v1/detect",
        dependencies=locked,
        summary="The faces of a photo",
        responses={200: {"model": PhotoFaces}, **refusals()},
        openapi_extra={"requestBody": DETECT_BODY},
    )
    async def detect(
        request: Request,
        min_score: Annotated[
            float | None,
            Query(ge=0, le=1, allow_inf_nan=False, description="Smallest score reported; the bundle's when not given"),
        ] = None,
        min_face: Annotated[
            float | None,
            Query(ge=1, allow_inf_nan=False, description="Smallest face looked for, in pixels; larger is faster"),
        ] = None,
    ) -> Response:
        read = body_parser(request.headers.get("content-type", ""))
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, f"compressed bodies are not taken; {HOW_TO_SEND}")
        stated = request.headers.get("content-length", "")
        _check_size(int(stated) if stated.isdecimal() else 0, limits)

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        async with turns.slot():
            body = await _body(request, turns, limits)
            return await turns.run(lambda: answer(read(body), min_score, min_face), gone)

    def answer(upload: Upload, min_score: float | None, min_face: float | None) -> Response:
        begin = time.perf_counter()
        if not upload.data:
            raise MediaError(upload.name, "is empty (0 bytes); send a photo")
        photo = predictor.read_from(BytesIO(upload.data), upload.name, min_face, limits.max_pixels)
        found = predictor.detect(photo, min_score, min_face)
        result = image_result(FoundImage(upload.name, upload.name), photo.size, found)
        metrics.count_photo(len(upload.data), time.perf_counter() - begin, found.labels)
        return _json(result.record())

    @app.get("/v1/model", dependencies=locked, summary="What the bundle says of itself", responses=refusals(401, 403))
    async def model() -> dict[str, Any]:
        return predictor.bundle.describe()

    @app.get("/v1/health", summary="Whether the server is well", responses=refusals(403))
    async def health() -> Health:
        return Health(status="ok", version=VERSION)

    @app.get(
        "/metrics",
        dependencies=locked,
        summary="Figures for Prometheus",
        response_class=PlainTextResponse,
        responses=refusals(401, 403),
    )
    async def figures() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return app


async def _body(request: Request, turns: RequestLimiter, limits: Limits) -> bytes:
    """The whole body, in memory. Raises HTTPException 413, 408, 503."""
    body = bytearray()
    late = f"the upload did not come within {limits.body_seconds:g} seconds; try a smaller photo"
    async with turns.deadline(limits.body_seconds, 408, late):
        async for piece in request.stream():
            body += piece
            _check_size(len(body), limits)
    return bytes(body)


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise HTTPException(413, f"the upload is larger than {limits.max_bytes / 1e6:g} MB; make it smaller first")


def _json(value: Any) -> Response:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)  # as the command line writes it
    return Response(text.encode(), media_type="application/json")


class BearerToken(HTTPBearer):
    """Asks for the bearer token. Raises HTTPException 401."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False, scheme_name="token")
        self._token = token.encode()

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials:
        given = await super().__call__(request)
        if given is None or not hmac.compare_digest(given.credentials.encode(), self._token):
            line = "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`"
            raise HTTPException(401, line, {"WWW-Authenticate": "Bearer"})
        return given


def _add_pages(app: FastAPI) -> None:
    """The page, its files, and the API's description: Swagger UI from local files."""
    static = StaticFiles(directory=STATIC)
    app.mount("/static", static)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await static.get_response("index.html", request.scope)

    docs = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=app.title,
        swagger_js_url=f"{DOCS_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{DOCS_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{DOCS_FILES}/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # it would send the description to swagger.io
    )
    scripts = re.findall(rb"<script>(.*?)</script>", bytes(docs.body), re.DOTALL)
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'" for each in scripts)
    policy = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs_page() -> Response:
        return HTMLResponse(docs.body, headers={"content-security-policy": policy})


def _answer_errors(app: FastAPI) -> None:
    """Gives every refusal its JSON."""
    plain = {404: "nothing is at this address; /docs lists what there is", 405: "this address takes no such method"}

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return error_response(error.status_code, plain.get(error.status_code, error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def value(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return error_response(422, f"{name} is {shown(str(first['input']))[:40]!r}; {VALUE_HINTS.get(name, first['msg'])}")

    @app.exception_handler(TooManyPixelsError)
    async def large(_: Request, error: TooManyPixelsError) -> Response:
        return error_response(413, str(error))

    @app.exception_handler(MediaError)
    async def unreadable(_: Request, error: MediaError) -> Response:
        return error_response(422, str(error))

    @app.exception_handler(ClientDisconnectedError)
    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
