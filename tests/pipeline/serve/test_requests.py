"""What people send: the photo in a field of any name, misspelt parameters, fields in the wrong place."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline.inference.predictor import Predictor
from pipeline.serve.app import create_app
from pipeline.serve.body_parser import MAX_TEXT
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.serve.app_client import LIMITS, RAW

LISTED = "he parameters are min_score and min_face"


def part(disposition: str, data: bytes, kind: str = "") -> bytes:
    head = f"Content-Disposition: form-data{disposition}\r\n" + (f"Content-Type: {kind}\r\n" if kind else "")
    return b"--x\r\n" + head.encode() + b"\r\n" + data + b"\r\n"


def send(client: TestClient, *parts: bytes, query: str = "") -> Any:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return client.post(f"/v1/detect{query}", content=b"".join(parts) + b"--x--\r\n", headers=headers)


@pytest.mark.parametrize("field", ["image", "file", "photo", "files[]", "upload", "사진", ""])
def test_the_photos_field_may_have_any_name(client: TestClient, photo: bytes, field: str) -> None:
    answer = send(client, part(f'; name="{field}"; filename="a.png"', photo, "image/png"))
    assert answer.status_code == 200 and answer.json()["file"] == "a.png" and len(answer.json()["faces"]) == 1


@pytest.mark.parametrize(
    ("disposition", "kind", "name"),
    [
        ('; name="image"', "", "upload"),  # a client that names no file
        ('; name="photo"', "image/jpeg", "upload"),
        ('; name="photo"', "application/octet-stream", "upload"),
        ('; name="photo"; filename=""', "", "upload"),
        ("; name=\"photo\"; filename*=UTF-8''%EC%82%AC%EC%A7%84.png", "", "사진.png"),
        ("; name=photo; filename=a.png", "text/plain", "a.png"),
        ("", "image/png", "upload"),
    ],
)
def test_what_counts_as_a_file(client: TestClient, photo: bytes, disposition: str, kind: str, name: str) -> None:
    answer = send(client, part(disposition, photo, kind))
    assert answer.status_code == 200, answer.json()
    assert answer.json()["file"] == name


def test_a_field_without_a_chosen_file_is_not_a_second_one(client: TestClient, photo: bytes) -> None:
    nothing = part('; name="other"; filename=""', b"", "application/octet-stream")
    assert send(client, nothing, part('; name="file"; filename="a.png"', photo)).status_code == 200
    answer = send(client, nothing)
    assert answer.status_code == 422
    assert answer.json()["error"] == "the form holds no file; send one photo, as in curl -F image=@photo.jpg"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            [("image", "photo.jpg")],
            "the form holds no file but text in the field 'image'; send one photo, as in curl -F",
        ),
        (
            [("photo", "photo.jpg")],
            "the form holds no file but text in the field 'photo'; send one photo, as in curl -F",
        ),
        ([("min_score", "0.3")], "the form holds no file but text in the field 'min_score'"),
        ([("x\x07" + "y" * 99, "1")], "the form holds no file but text in the field 'x\N{REPLACEMENT CHARACTER}yyyy"),
    ],
)
def test_a_form_without_a_file(client: TestClient, fields: list[tuple[str, str]], line: str) -> None:
    answer = send(client, *[part(f'; name="{name}"', text.encode()) for name, text in fields])
    assert answer.status_code == 422 and answer.json()["error"].startswith(line)
    assert len(answer.json()["error"]) < 200


def test_several_files_are_refused(client: TestClient, fake: FakePredictor, photo: bytes) -> None:
    parts = [part(f'; name="{name}"; filename="a.png"', photo) for name in ("a", "b", "c")]
    answer = send(client, *parts)
    assert answer.status_code == 422
    assert (
        answer.json()["error"] == "the form holds 3 files; send one photo per request, as in curl -F image=@photo.jpg"
    )
    assert fake.calls == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("min_score", "the form field 'min_score' belongs in the address, as in /v1/detect?min_score=0.3"),
        ("min_face", "the form field 'min_face' belongs in the address, as in /v1/detect?"),
        ("minscore", "the form field 'minscore' is unknown; did you mean min_score? The parameters are"),
        ("threshold", "the form field 'threshold' is unknown; the parameters are min_score and"),
        ("image", "the form field 'image' is unknown; the parameters are"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_further_fields_are_refused_by_name(
    client: TestClient, fake: FakePredictor, photo: bytes, name: str, line: str, first: bool
) -> None:
    parts = [part(f'; name="{name}"', b"0.9"), part('; name="file"; filename="a.png"', photo)]
    answer = send(client, *(parts if first else parts[::-1]))
    assert answer.status_code == 422 and answer.json()["error"].startswith(line)
    assert "/v1/detect?min_score=0.3" in answer.json()["error"] and fake.calls == []


def test_a_photo_of_printable_bytes_is_a_file_when_it_is_long(client: TestClient) -> None:
    answer = send(client, part('; name="image"', b"P" * (MAX_TEXT + 1)))
    assert answer.status_code == 422 and answer.json()["error"].startswith("upload: is not a picture")


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("minscore=0.9", f"the query name 'minscore' is unknown; did you mean min_score? T{LISTED}"),
        ("minFace=0.9", f"the query name 'minFace' is unknown; did you mean min_face? T{LISTED}"),
        ("MIN_SCORE=0.9", f"the query name 'MIN_SCORE' is unknown; did you mean min_score? T{LISTED}"),
        ("threshold=0.9", f"the query name 'threshold' is unknown; t{LISTED}"),
        ("min_score=0.3&conf=1", f"the query name 'conf' is unknown; t{LISTED}"),
        ("conf", f"the query name 'conf' is unknown; t{LISTED}"),
        ("=1", f"the query name '' is unknown; t{LISTED}"),
        ("a%0Ab=1", "the query name 'a\N{REPLACEMENT CHARACTER}b' is unknown; "),
        ("x" * 5000 + "=1", f"the query name '{'x' * 40}' is unknown; t{LISTED}"),
        ("min_score=0.3&min_score=0.4", "the query name 'min_score' is there 2 times; give it once"),
    ],
)
def test_unknown_query_names_are_refused(
    client: TestClient, fake: FakePredictor, photo: bytes, query: str, line: str
) -> None:
    answer = client.post(f"/v1/detect?{query}", content=photo, headers=RAW)
    assert answer.status_code == 422 and answer.json()["error"].startswith(line)
    assert "\n" not in answer.json()["error"] and fake.calls == []


def test_the_token_comes_first(fake: FakePredictor, photo: bytes) -> None:
    with TestClient(create_app(fake, LIMITS, token="secret")) as client:  # type: ignore[arg-type]
        assert client.post("/v1/detect?x=1", content=photo, headers=RAW).status_code == 401


def test_a_smallest_face_that_enlarges_the_photo_beyond_the_limit_is_refused() -> None:
    app = create_app(Predictor.default(), replace(LIMITS, max_pixels=480_000))
    file = io.BytesIO()
    Image.new("RGB", (300, 200)).save(file, "PNG")
    with TestClient(app) as client:
        for min_face, status in ((2.8, 422), (2.9, 200)):
            answer = client.post(f"/v1/detect?min_face={min_face}", content=file.getvalue(), headers=RAW)
            assert answer.status_code == status
            if status == 422:
                reason = "would be enlarged to more than 0.48 million pixels for faces of 2.8 px"
                assert answer.json() == {"error": f"upload: {reason}; use a smallest face of 2.9 px or more"}
