"""The application: photos in, faces out, and each refusal as one line of JSON."""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline.serve.app import create_app
from pipeline.serve.limits import Limits
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.serve.app_client import LIMITS, RAW, metric
from tests.helpers.serve.served import SlowPredictor, until
from tests.load.request_fuzzer import png as claiming_png

FACE = {
    "box": [8, 6, 20, 24],
    "label": "with_mask",
    "score": 0.63,
    "face_score": 0.9,
    "probs": {"with_mask": 0.7, "without_mask": 0.2, "mask_weared_incorrect": 0.1},
    "unsure": False,
    "landmarks": [[11.6, 13.2], [16.4, 13.2], [14.0, 16.8], [12.2, 20.4], [15.8, 20.4]],
}


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_a_photo_in_a_form_and_as_the_body(client: TestClient, fake: FakePredictor, photo: bytes) -> None:
    answer = client.post("/v1/detect", files={"image": ("my photo.png", photo, "image/png")})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert answer.json() == {"file": "my photo.png", "width": 48, "height": 32, "faces": [FACE]}
    for kind in ("image/png", "image/jpeg", "application/octet-stream", "Image/PNG; a=b"):
        raw = client.post("/v1/detect", content=photo, headers={"Content-Type": kind})
        assert raw.json() == {**answer.json(), "file": "upload"}
    assert fake.calls == [(None, None)] * 5


def test_a_file_that_was_read_all_the_same_has_a_note(client: TestClient) -> None:
    jpeg, animation = io.BytesIO(), io.BytesIO()
    picture = Image.effect_noise((48, 32), 40)
    picture.save(jpeg, "JPEG")
    picture.save(animation, "GIF", save_all=True, append_images=[Image.new("L", (48, 32))])
    for data, note in ((jpeg.getvalue()[:-2], "lacks its end marker"), (animation.getvalue(), "is an animation")):
        answer = client.post("/v1/detect", content=data, headers=RAW)
        assert answer.status_code == 200 and note in answer.json()["note"]


def test_options_reach_the_predictor(client: TestClient, fake: FakePredictor, photo: bytes) -> None:
    assert client.post("/v1/detect?min_score=0&min_face=12.5", content=photo, headers=RAW).status_code == 200
    assert fake.calls == [(0.0, 12.5)]


def test_boxes_are_in_the_upright_photo(client: TestClient, photo: bytes) -> None:
    stored = np.rot90(np.asarray(Image.open(io.BytesIO(photo))), 1)  # as stored with EXIF orientation 6
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(file, "PNG", exif=exif)
    answer = client.post("/v1/detect", content=file.getvalue(), headers=RAW).json()
    assert (answer["width"], answer["height"], answer["faces"]) == (48, 32, [FACE])


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("line\x07break.jpg", "line\N{REPLACEMENT CHARACTER}break.jpg"),
        ("사진.jpg", "사진.jpg"),
        ("", "upload"),
        ("a" * 3000, "a" * 255),
    ],
)
def test_file_names_are_one_line_without_folders(client: TestClient, photo: bytes, sent: str, shown: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{sent}"\r\n\r\n'.encode()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/v1/detect", content=head + photo + b"\r\n--x--\r\n", headers=headers)
    assert answer.json()["file"] == shown
    broken = client.post("/v1/detect", content=head + photo[:50] + b"\r\n--x--\r\n", headers=headers)
    assert broken.status_code == 422 and broken.json()["error"].startswith(f"{shown}: is truncated or broken")


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


IMAGE = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("kind", "body", "status", "line"),
    [
        (
            "text/plain",
            b"x",
            415,
            "a body of this Content-Type holds no photo; send multipart/form-data with the photo",
        ),
        ("application/x-www-form-urlencoded", b"image=x", 415, "holds no photo"),
        ("", b"x", 415, "holds no photo"),
        ("multipart/form-data", b"x", 400, "boundary is missing"),
        ("multipart/form-data; boundary=" + "x" * 71, b"x", 400, "boundary is missing or invalid"),
        (FORM, b"", 400, "the multipart body is cut off; send it whole"),
        (FORM, form(IMAGE + b"data", end=b""), 400, "is cut off"),
        (FORM, b"no boundary at all", 400, "the multipart body is broken; send it as a browser or curl -F does"),
        (FORM, form(b"no colon\r\n\r\n"), 400, "is broken"),
        (FORM, form(*[b'Content-Disposition: form-data; name="a"\r\n\r\n'] * 9), 400, "has more than 8 parts"),
        (
            FORM,
            form(b'Content-Disposition: form-data; name="photo"\r\n\r\nx'),
            422,
            "no file but text in the field 'photo'",
        ),
        (
            FORM,
            form(b"\r\nx"),
            422,
            "the form holds no file but text in the field ''; send one photo, as in curl -F image=@",
        ),
        (FORM, form(), 422, "the form holds no file; send one photo"),
        (FORM, form(IMAGE + b"x", IMAGE + b"x"), 422, "the form holds 2 files; send one photo per request"),
        (FORM, form(IMAGE), 422, "a.png: is empty (0 bytes)"),
        (FORM, form(IMAGE + b"x"), 422, "a.png: is not a picture that can be read; convert it to JPEG or PNG"),
        ("image/png", b"", 422, "upload: is empty (0 bytes); send a photo"),
        ("image/png", b"x", 422, "upload: is not a picture that can be read"),
        ("image/png", b"%!PS-Adobe-3.0 EPSF-3.0\n", 422, "upload: is not a picture"),
        ("image/png", b"x" * 100_001, 413, "the upload is larger than 0.1 MB; make it smaller first"),
        (FORM, form(IMAGE + b"x" * 100_000), 413, "the upload is larger than 0.1 MB"),
    ],
)
def test_bad_bodies(client: TestClient, fake: FakePredictor, kind: str, body: bytes, status: int, line: str) -> None:
    answer = client.post("/v1/detect", content=body, headers={"Content-Type": kind})
    error = answer.json()["error"]
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert line in error and "\n" not in error
    assert fake.calls == []


def test_compressed_bodies_are_refused(client: TestClient) -> None:
    answer = client.post("/v1/detect", content=b"x", headers={**RAW, "Content-Encoding": "gzip"})
    assert answer.status_code == 415 and "compressed bodies are not accepted" in answer.json()["error"]


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("min_score=1.5", "min_score is '1.5'; give a number from 0 to 1"),
        ("min_score=-0.1", "min_score is '-0.1'; give a number from 0 to 1"),
        ("min_score=nan", "min_score is 'nan'"),
        ("min_score=", "min_score is ''; give a number from 0 to 1"),
        ("min_face=0", "min_face is '0'; give 1 pixel or more"),
        ("min_face=inf", "min_face is 'inf'"),
        ("min_face=a%0Ab", "min_face is 'a\N{REPLACEMENT CHARACTER}b'"),
        ("min_face=" + "9" * 2000, "min_face is '" + "9" * 40 + "'; give"),
    ],
)
def test_bad_values(client: TestClient, fake: FakePredictor, photo: bytes, query: str, line: str) -> None:
    answer = client.post(f"/v1/detect?{query}", content=photo, headers=RAW)
    assert answer.status_code == 422 and answer.json()["error"].startswith(line)
    assert fake.calls == []


def test_a_body_without_a_stated_length_is_bounded(client: TestClient, photo: bytes) -> None:
    received_pieces = 0

    def pieces() -> Iterator[bytes]:
        nonlocal received_pieces
        for _ in range(1000):
            received_pieces += 1
            yield bytes(1000)

    answer = client.post("/v1/detect", content=pieces(), headers=RAW)
    assert answer.status_code == 413 and "larger than 0.1 MB" in answer.json()["error"]
    assert client.post("/v1/detect", content=iter([photo[:100], photo[100:]]), headers=RAW).status_code == 200


def test_pixels_are_known_before_decoding(client: TestClient, fake: FakePredictor, monkeypatch: Any) -> None:
    assert client.post("/v1/detect", content=png(1000, 1000), headers=RAW).status_code == 200
    fake.calls.clear()
    heads = [claiming_png(width, height) for width, height in ((1001, 1000), (10_000, 9_000), (30_000, 20_000))]
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("was decoded"))
    for head in heads:
        answer = client.post("/v1/detect", content=head, headers=RAW)
        assert answer.status_code == 413
        assert answer.json()["error"] == "upload: has more than 1 million pixels; make it smaller first"
    assert fake.calls == []


def test_nothing_is_written_to_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: Any, **options: Any) -> None:
        pytest.fail("a temporary file was created")

    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, none)
    large = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(large).save(file, "BMP")
    assert client.post("/v1/detect", files={"image": file.getvalue()}).status_code == 200


NAME = "holiday.jpg"


class FailingPredictor(FakePredictor):
    def detect(self, *args: Any) -> Any:
        raise RuntimeError(NAME)


def test_an_unexpected_error_is_one_line_and_names_no_photo(photo: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with TestClient(create_app(FailingPredictor(), LIMITS)) as client:  # type: ignore[arg-type]
        for _ in range(2):
            answer = client.post("/v1/detect", files={"image": (NAME, photo)})
            assert answer.status_code == 500 and answer.json() == {
                "error": "unexpected error in the server; see its log"
            }
        assert client.get("/v1/health").status_code == 200
        assert metric(client, "mask_requests_in_flight") == 0
    err = capsys.readouterr().err
    assert "error: unexpected RuntimeError" in err and "in detect" in err and NAME not in err


class ConcurrentPosts:
    """Posts a photo from several threads at once; collects the answers in the order of their end."""

    def __init__(self, client: TestClient, photo: bytes) -> None:
        self._client, self._photo = client, photo
        self.answers: list[Any] = []
        self._threads: list[threading.Thread] = []

    def post(self) -> None:
        def job() -> None:
            self.answers.append(self._client.post("/v1/detect", content=self._photo, headers=RAW))

        self._threads.append(threading.Thread(target=job))
        self._threads[-1].start()

    def join(self) -> list[int]:
        for thread in self._threads:
            thread.join(10)
        return [answer.status_code for answer in self.answers]


def test_few_requests_wait_and_further_ones_are_refused(photo: bytes) -> None:
    slow = SlowPredictor()
    with TestClient(create_app(slow, Limits(waiting=2), workers=1)) as client:  # type: ignore[arg-type]
        threads = ConcurrentPosts(client, photo)
        for number in (1, 2, 3):
            threads.post()
            until(lambda n=number: metric(client, "mask_requests_in_flight") == n)
        assert slow.begun == 1
        refused = client.post("/v1/detect", content=photo, headers=RAW)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "2"
        assert refused.json()["error"] == "3 photos are in progress, the most allowed; try again in 2 seconds"
        assert client.get("/v1/health").status_code == 200  # the event loop is not blocked
        slow.go.set()
        assert threads.join() == [200, 200, 200]
        assert metric(client, "mask_requests_in_flight") == 0
        assert client.post("/v1/detect", content=photo, headers=RAW).status_code == 200


def test_slow_work_counts_as_in_flight_until_it_ends(photo: bytes) -> None:
    slow = SlowPredictor()
    limits = Limits(detect_seconds=0.2, waiting=1)
    with TestClient(create_app(slow, limits, workers=1)) as client:  # type: ignore[arg-type]
        for in_flight in (1, 1):  # the second one never begins and is not counted
            answer = client.post("/v1/detect", content=photo, headers=RAW)
            assert answer.status_code == 503
            assert answer.json()["error"] == ("there was no answer within 0.2 seconds; try a smaller photo, or later")
            assert metric(client, "mask_requests_in_flight") == in_flight
        assert slow.begun == 1
        slow.go.set()
        until(lambda: metric(client, "mask_requests_in_flight") == 0)
        assert client.post("/v1/detect", content=photo, headers=RAW).status_code == 200
