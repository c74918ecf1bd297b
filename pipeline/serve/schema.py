"""The JSON answers of the HTTP API, described for OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from pipeline.serve.body_parser import FIELD


class Face(BaseModel):
    """A face."""

    box: list[float] = Field(description="x1, y1, x2, y2 in pixels of the upright photo", min_length=4, max_length=4)
    label: str = Field(description="The most probable class")
    score: float = Field(description="face_score times the label's probability")
    face_score: float = Field(description="Probability of being a face")
    probs: dict[str, float] = Field(description="Probability of each class")
    unsure: bool = Field(description="Whether another class is nearly as probable")
    landmarks: list[list[float]] = Field(description="x, y of both eyes, the nose and the mouth's corners")


class PhotoFaces(BaseModel):
    """The faces of a photo."""

    file: str = Field(description="The upload's file name")
    width: int = Field(description="Of the upright photo, in pixels")
    height: int = Field(description="Of the upright photo, in pixels")
    faces: list[Face] = Field(description="Best score first")
    note: str = Field("", description="Only where there is one: what to know of a file that was read all the same")


class Health(BaseModel):
    """The server is well."""

    status: str
    version: str


class ErrorResponse(BaseModel):
    """Why a request was refused, in one line."""

    error: str


_PICTURE = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "description": "One file; the field may have any name. Further fields are refused.",
    "required": [FIELD],
    "properties": {FIELD: _PICTURE},
}
# The body of POST /v1/detect, which the server reads itself: FastAPI would put a body of any size on disk.
DETECT_BODY: dict[str, Any] = {
    "required": True,
    "description": "A photo: JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PPM or QOI.",
    "content": {
        "multipart/form-data": {"schema": _FORM},
        "image/*": {"schema": _PICTURE},
        "application/octet-stream": {"schema": _PICTURE},
    },
}
_ERRORS = {
    400: "The body is broken",
    401: "The bearer token is missing or wrong",
    403: "The request comes from another site's page, or names another host",
    408: "The upload came too slowly",
    413: "The upload has too many bytes, or the photo too many pixels",
    415: "The body's type holds no photo",
    422: "The photo cannot be read, a value is out of range, or a name is unknown",
    429: "Too many photos are in progress; see Retry-After",
    500: "An unexpected error in the server",
    503: "The photo took too long, or the server is shutting down",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for error statuses, each an ErrorResponse; for all of them when none is given."""
    return {status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses or _ERRORS}
