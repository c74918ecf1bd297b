"""Fuzz targets: each reader of untrusted input must accept any bytes, or refuse them with one line.

A target takes bytes and raises if the reader raises an undocumented exception or a message of several lines. SEEDS has
valid inputs, from which fuzzers start.
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from PIL import Image
from starlette.exceptions import HTTPException

from common.annotations import read_dataset
from common.errors import BundleError, MediaError, UserError
from common.images import decode_photo
from pipeline.inference.bundle import DEFAULT, Bundle
from pipeline.serve.body_parser import body_parser
from pipeline.serve.limits import Limits
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.serve.served import received, served
from tests.load.server_process import Target

MAX_FUZZ_PIXELS = 1_000_000  # for speed
_STACK = ExitStack()  # servers and folders that exist until the process ends


def encode_picture(kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """Return a small picture file."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, kind)
    return file.getvalue()


def assert_one_line(error: Exception) -> None:
    """Assert that the message is one line."""
    text = str(error)
    assert text and len(text.splitlines()) == 1, repr(text)


def image(data: bytes) -> None:
    """The photo reader, at full and at reduced size."""
    for shrink in (None, lambda size: 4.0):
        try:
            photo = decode_photo(io.BytesIO(data), "x.jpg", shrink, MAX_FUZZ_PIXELS)
        except MediaError as error:
            assert_one_line(error)
        else:
            assert photo.pixels.ndim == 3 and photo.pixels.shape[2] == 3 and photo.pixels.size


@cache
def _dataset(kind: str) -> Path:
    """Return a dataset folder with one picture, in the layout of the annotation format."""
    root = Path(_STACK.enter_context(tempfile.TemporaryDirectory()))
    folder = {"voc": "images", "yolo": "train/images", "yaml": "train/images"}.get(kind, ".")
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "p.png").write_bytes(encode_picture())
    if kind == "voc":
        (root / "annotations").mkdir()
    elif kind in ("yolo", "yaml"):
        (root / "train/labels").mkdir()
        (root / "train/labels/p.txt").write_bytes(SEEDS["yolo"][0])
        (root / "data.yaml").write_bytes(SEEDS["yaml"][0])
    return root


def _check_annotations(kind: str, file: str, data: bytes) -> None:
    """Read a dataset with `data` as one file, and check its boxes and problems."""
    root = _dataset(kind)
    (root / file).write_bytes(data)
    try:
        dataset = read_dataset(root)
    except UserError as error:
        assert_one_line(error)
        return
    for each in dataset.images:
        width, height = each.size
        assert (each.boxes[:, :2] >= 0).all() and (each.boxes[:, 2:] <= (width, height)).all()
        assert (each.boxes[:, :2] < each.boxes[:, 2:]).all()
    for problem in dataset.problems:
        assert len(str(problem).splitlines()) == 1


def voc(data: bytes) -> None:
    """Pascal VOC XML."""
    _check_annotations("voc", "annotations/p.xml", data)


def coco(data: bytes) -> None:
    """COCO JSON."""
    _check_annotations("coco", "_annotations.coco.json", data)


def labelme(data: bytes) -> None:
    """LabelMe JSON, next to a file that is one for certain."""
    (_dataset("labelme") / "q.json").write_bytes(SEEDS["labelme"][0])
    _check_annotations("labelme", "p.json", data)


def cvat(data: bytes) -> None:
    """CVAT XML, next to a file that is one for certain."""
    (_dataset("cvat") / "q.xml").write_bytes(SEEDS["cvat"][0])
    _check_annotations("cvat", "annotations.xml", data)


def via(data: bytes) -> None:
    """VIA as JSON, or as CSV where the data do not begin with a brace."""
    root = _dataset("via")
    for file in root.glob("via.*"):
        file.unlink()
    _check_annotations("via", "via.json" if data.lstrip().startswith(b"{") else "via.csv", data)


def yolo(data: bytes) -> None:
    """YOLO label files."""
    _check_annotations("yolo", "train/labels/p.txt", data)


def yaml(data: bytes) -> None:
    """YOLO data.yaml."""
    _check_annotations("yaml", "data.yaml", data)


@cache
def _bundle() -> Path:
    folder = Path(_STACK.enter_context(tempfile.TemporaryDirectory())) / "bundle"
    shutil.copytree(DEFAULT, folder)
    return folder


def bundle(data: bytes) -> None:
    """bundle.json with valid graphs."""
    (_bundle() / "bundle.json").write_bytes(data)
    try:
        Bundle.load(_bundle()).describe()
    except BundleError as error:
        assert_one_line(error)


BOUNDARY = b"xYzZY"


def multipart(data: bytes) -> None:
    """The body of a form; the first line is the Content-Type."""
    kind, _, body = data.partition(b"\n")
    try:
        body_parser(kind.decode("latin-1"))(body)
    except HTTPException as error:
        assert error.status_code in (400, 415, 422)
        assert len(str(error.detail).splitlines()) == 1


@cache
def _server() -> Target:
    limits = Limits(head_seconds=0.3, body_seconds=0.3, detect_seconds=5, max_bytes=100_000)
    return _STACK.enter_context(served(FakePredictor(), limits))


def http(data: bytes) -> None:
    """Raw bytes to a real server: no 5xx answer, and the next valid request is answered."""
    target = _server()
    with socket.create_connection((target.host, target.port), timeout=5) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answer = received(connection)
    assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:80]
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:200]
    with socket.create_connection((target.host, target.port), timeout=5) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 200")


def _form(kind: bytes = b"image/png") -> bytes:
    head = b'Content-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: ' + kind
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + encode_picture() + b"\r\n--" + BOUNDARY + b"--\r\n"


def _request() -> bytes:
    body = _form()
    head = (
        b"POST /v1/detect?min_score=0.3 HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary="
        + BOUNDARY
        + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    return head + body


_VOC = b"""<annotation><filename>p.png</filename><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>with_mask</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object>
</annotation>"""
_ROTATED = b"""<?xml version="1.0" encoding="euc-kr"?><annotation><object><name>with_mask</name><robndbox><cx>20</cx>
<cy>15</cy><w>9</w><h>8</h><angle>0.5</angle></robndbox></object><object><name>a</name><polygon><x1>3</x1><y1>4</y1>
<x2>9</x2><y2>8</y2></polygon></object></annotation>"""
_CVAT = b"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><image id="0" name="p.png"
subset="Train" width="40" height="30"><box label="with_mask" xtl="3" ytl="4" xbr="20" ybr="25" rotation="5.00"></box>
<polygon label="a" points="1,2;3,4;5,9"/><ellipse label="a" cx="20" cy="15" rx="3" ry="4"/><mask label="a" rle="1"
left="1" top="2" width="3" height="4"/><points label="b" points="1,2"/><tag label="c"/></image></annotations>"""
_LABELME = {
    "version": "5.5.0",
    "imagePath": "..\\p.png",
    "imageWidth": 40,
    "imageHeight": 30,
    "imageData": None,
    "shapes": [
        {"label": "with_mask", "points": [[3, 4], [20, 25]], "shape_type": "rectangle"},
        {"label": "a", "points": [[3, 4], [20, 25], [9, 9]], "shape_type": "polygon"},
        {"label": "a", "points": [[20, 15], [23, 15]], "shape_type": "circle"},
        {"label": "a", "points": [[2, 5]], "shape_type": "point"},
    ],
}
_COCO = {
    "images": [{"id": 1, "file_name": "p.png", "width": 40, "height": 30}],
    "categories": [{"id": 1, "name": "with_mask"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 17, 21]}],
}
_VIA = {
    "p.png-1": {
        "filename": "p.png",
        "regions": [
            {
                "shape_attributes": {"name": "rect", "x": 3, "y": 4, "width": 9, "height": 8},
                "region_attributes": {"class": "with_mask"},
            },
            {
                "shape_attributes": {"name": "polygon", "all_points_x": [1, 9, 5], "all_points_y": [1, 2, 8]},
                "region_attributes": {"class": {"with_mask": True}},
            },
            {"shape_attributes": {"name": "ellipse", "cx": 20, "cy": 15, "rx": 3, "ry": 4, "theta": 0.3}},
        ],
    }
}
_VIA_CSV = b"""filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes
p.png,1,{},1,0,"{""name"":""rect"",""x"":3,""y"":4,""width"":9,""height"":8}","{""class"":""with_mask""}"
"""
SEEDS: dict[str, list[bytes]] = {
    "image": [encode_picture(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")],
    "voc": [_VOC, _ROTATED],
    "labelme": [json.dumps(_LABELME).encode()],
    "cvat": [_CVAT],
    "via": [json.dumps(_VIA).encode(), _VIA_CSV],
    "coco": [json.dumps(_COCO).encode()],
    "yolo": [
        b"0 0.5 0.5 0.2 0.3\n1 0.25 0.25 0.1 0.1\n",
        b"0 0.5 0.5 0.2 0.3 0.45 0.45 0.55 0.45 0.5 0.5 0.46 0.58 0.54 0.58\n1 0.5 0.5 0.2 0.3 0.91 2\n",
        b"0 0.1 0.2 0.3 0.2 0.2 0.4\n0,0.5,0.5,0.2,0.3\nb 0,5 0,5 0,2 0,3\n",
    ],
    "yaml": [
        b"names: [with_mask, without_mask]\ntrain: train/images\n",
        b"names:\n  0: a\n  1: b\ntrain: train/images\n",
        b"path: ..\\x\ntrain: [train/images, c.txt]\nval:\nnc: 2\nkpt_shape: [5, 2]\nnames: {0: yes, 1: no}\n",
    ],
    "bundle": [(DEFAULT / "bundle.json").read_bytes()],
    "multipart": [b"multipart/form-data; boundary=" + BOUNDARY + b"\n" + _form(), b"image/png\n" + encode_picture()],
    "http": [_request(), b"GET /v1/model HTTP/1.1\r\nHost: localhost\r\n\r\n"],
}
TARGETS: dict[str, Callable[[bytes], None]] = {
    "image": image,
    "voc": voc,
    "labelme": labelme,
    "cvat": cvat,
    "via": via,
    "coco": coco,
    "yolo": yolo,
    "yaml": yaml,
    "bundle": bundle,
    "multipart": multipart,
    "http": http,
}
