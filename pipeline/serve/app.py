"""The HTTP API and the web page as an application: routes, and every error as JSON."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Collection, Sequence
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

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

from common.errors import MediaError, TooManyPixelsError
from common.paths import FoundImage
from pipeline.inference.predictor import Predictor
from pipeline.inference.results import image_result
from pipeline.serve.body_parser import HOW_TO_SEND, Upload, body_parser
from pipeline.serve.limiter import ClientDisconnectedError, RequestLimiter
from pipeline.serve.limits import Limits
from pipeline.serve.metrics import ServeMetrics
from pipeline.serve.middleware import PAGE_POLICY, WASM_POLICY, error_response, middlewares
from pipeline.serve.page_files import DEVICE_FOLDER, SERVER_AND_DEVICE, SERVER_ONLY, STATIC, page_html
from pipeline.serve.parameters import check_query, shown
from pipeline.serve.schema import DETECT_BODY, Health, PhotoFaces, error_responses

VERSION = "0.1.0"
DOCS_FILES = "/static-offline-docs"  # the address of Swagger UI's files, from fastapi-offline
API_PATHS = ("/v1/detect", "/v1/model", "/v1/health", "/metrics")
COUNTED_PATHS = ("/", *API_PATHS, "/docs", "/openapi.json", "/static/*", DOCS_FILES + "/*")
VALUE_HINTS = {"min_score": "give a number from 0 to 1", "min_face": "give 1 pixel or more"}
CLIENT_CLOSED_REQUEST = 499  # nginx's status; counted, but no client receives it
MinScore = Annotated[
    float | None,
    Query(ge=0, le=1, allow_inf_nan=False, description="Smallest score reported; the bundle's when not given"),
]
MinFace = Annotated[
    float | None, Query(ge=1, allow_inf_nan=False, description="Smallest face to look for, in pixels; larger is faster")
]


def create_app(
    predictor: Predictor,
    limits: Limits,
    token: str | None = None,
    workers: int = 1,
    hosts: Collection[str] | None = None,
    origins: Collection[str] = (),
    root_path: str = "",
    device: Path | None = None,
) -> FastAPI:
    """Make the application. Its `state.limiter` is the RequestLimiter.

    Args:
        predictor: detects the faces.
        limits: what one request, and all of them together, may take.
        token: the bearer token for all paths but the page and /v1/health; no token is needed when None.
        workers: photos processed at the same time.
        hosts: names under which the server may be addressed; any when None.
        origins: origins of other sites whose pages may use the API, as `access.checked_origins` returns them.
        root_path: path prefix under which a proxy shows the server, as `access.checked_root_path` returns it.
        device: folder of the model and runtime for browsers, as `checked_device_folder` returns it; with it, the page
            can look at photos on the visitor's device.
    """
    limiter = RequestLimiter(workers, limits)
    paths = COUNTED_PATHS if device is None else (*COUNTED_PATHS, f"/{DEVICE_FOLDER}/*")
    metrics = ServeMetrics(paths, predictor.bundle.meta.class_names, lambda: limiter.in_flight)
    app: FastAPI = FastAPIOffline(
        title="Face mask detection",
        version=VERSION,
        description="Finds the faces in a photo and tells how each wears its mask. Nothing is stored.",
        docs_url=None,
        redoc_url=None,
        static_url=DOCS_FILES,
        redirect_slashes=False,
        middleware=middlewares(hosts, metrics.count_request, origins, root_path),
    )
    app.state.limiter = limiter
    dependencies = [] if token is None else [Depends(BearerToken(token))]
    _answer_errors(app)
    _add_page(app, root_path, device)
    _add_docs(app)
    _add_detection(app, predictor, limits, metrics, dependencies)
    _add_information(app, predictor, metrics, dependencies)
    return app


def _add_detection(
    app: FastAPI, predictor: Predictor, limits: Limits, metrics: ServeMetrics, dependencies: Sequence[Any]
) -> None:
    """Add POST /v1/detect."""
    limiter: RequestLimiter = app.state.limiter

    @app.post(
        "/v1/detect",
        dependencies=[*dependencies, Depends(check_query)],
        summary="The faces of a photo",
        responses={200: {"model": PhotoFaces}, **error_responses()},
        openapi_extra={"requestBody": DETECT_BODY},
    )
    async def detect(request: Request, min_score: MinScore = None, min_face: MinFace = None) -> Response:
        parse = body_parser(request.headers.get("content-type", ""))
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HTTPException(415, f"compressed bodies are not accepted; {HOW_TO_SEND}")
        content_length = request.headers.get("content-length", "")
        _check_size(int(content_length) if content_length.isdecimal() else 0, limits)

        async def disconnected() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        async with limiter.slot():
            body = await _read_body(request, limiter, limits)
            return await limiter.run(lambda: answer(parse(body), min_score, min_face), disconnected)

    def answer(upload: Upload, min_score: float | None, min_face: float | None) -> Response:
        begin = time.perf_counter()
        if not upload.data:
            raise MediaError(upload.name, "is empty (0 bytes); send a photo")
        photo = predictor.read_from(BytesIO(upload.data), upload.name, min_face, limits.max_pixels)
        found = predictor.detect(photo, min_score, min_face)
        result = image_result(FoundImage(upload.name, upload.name), photo.size, found, photo.note)
        metrics.count_photo(len(upload.data), time.perf_counter() - begin, found.labels)
        text = json.dumps(result.record(), ensure_ascii=False, allow_nan=False)  # as the command line writes it
        return Response(text.encode(), media_type="application/json")


def _add_information(app: FastAPI, predictor: Predictor, metrics: ServeMetrics, dependencies: Sequence[Any]) -> None:
    """Add /v1/model, /v1/health and /metrics."""
    protected: dict[str, Any] = {"dependencies": dependencies, "responses": error_responses(401, 403)}

    @app.get("/v1/model", summary="The bundle's metadata", **protected)
    async def model() -> dict[str, Any]:
        return predictor.bundle.describe()

    @app.get("/v1/health", summary="Whether the server is well", responses=error_responses(403))
    async def health() -> Health:
        return Health(status="ok", version=VERSION)

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse, **protected)
    async def figures() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)


async def _read_body(request: Request, limiter: RequestLimiter, limits: Limits) -> bytes:
    """Return the whole body, in memory; raise HTTPException 413, 408 or 503."""
    body = bytearray()
    message = f"the upload did not arrive within {limits.body_seconds:g} seconds; try a smaller photo"
    async with limiter.deadline(limits.body_seconds, 408, message):
        async for piece in request.stream():
            body += piece
            _check_size(len(body), limits)
    return bytes(body)


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise HTTPException(413, f"the upload is larger than {limits.max_bytes / 1e6:g} MB; make it smaller first")


class BearerToken(HTTPBearer):
    """Requires the bearer token; raises HTTPException 401."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False, scheme_name="token")
        self._token = token.encode()

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials:
        credentials = await super().__call__(request)
        if credentials is None or not hmac.compare_digest(credentials.credentials.encode(), self._token):
            message = "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`"
            raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})
        return credentials


def _add_page(app: FastAPI, root_path: str, device: Path | None) -> None:
    """Add the web page and its files. The page's addresses are relative."""
    static = StaticFiles(directory=STATIC)
    app.mount("/static", static)
    policy, attributes, head = PAGE_POLICY, SERVER_ONLY, ""
    if device is not None:
        app.mount(f"/{DEVICE_FOLDER}", StaticFiles(directory=device))
        policy, attributes = WASM_POLICY, SERVER_AND_DEVICE
    # A proxy that removes the prefix may show the page at the prefix without a slash, from which nothing is relative.
    if root_path:
        head = f'<base href="{root_path}/">'
        policy = policy.replace("base-uri 'none'", "base-uri 'self'")
    html = page_html(attributes, head)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        if root_path or device is not None:
            return HTMLResponse(html, headers={"content-security-policy": policy})
        return await static.get_response("index.html", request.scope)


def _add_docs(app: FastAPI) -> None:
    """Add /docs, the API's description: Swagger UI from local files, by relative addresses, which suit any prefix."""
    files = DOCS_FILES.removeprefix("/")
    docs = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url=f"{files}/swagger-ui-bundle.js",
        swagger_css_url=f"{files}/swagger-ui.css",
        swagger_favicon_url=f"{files}/favicon.png",
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
    """Answer every error as JSON."""
    plain = {404: "not found; /docs lists the addresses", 405: "this address does not take this method; see /docs"}

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        message = plain.get(error.status_code, error.detail)
        return error_response(error.status_code, message, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid_value(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        hint = VALUE_HINTS.get(name, first["msg"])
        return error_response(422, f"{name} is {shown(str(first['input']))}; {hint}")

    @app.exception_handler(MediaError)
    async def unreadable(_: Request, error: MediaError) -> Response:
        return error_response(413 if isinstance(error, TooManyPixelsError) else 422, str(error))

    @app.exception_handler(ClientDisconnectedError)
    @app.exception_handler(ClientDisconnect)
    async def client_disconnected(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
