"""Batch from and to servers that speak S3, as MinIO does: small ones in this process."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow.parquet as pq
import pytest

from pipeline.batch import command as batch
from pipeline.batch import pool as batch_pool
from pipeline.batch.storage import Storage
from tests.helpers.batch_fakes import fake_job, run_here
from tests.helpers.fake_predictor import write_picture


class S3Server(ThreadingHTTPServer):
    """Holds the objects of one bucket; answers what pyarrow asks for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}  # by key
        self.parts: dict[str, dict[int, bytes]] = {}  # of unfinished objects, by key and number
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def options(self) -> str:
        """The options that a name keeps."""
        return f"?endpoint_override=127.0.0.1:{self.server_port}&scheme=http"

    def address(self, key: str) -> str:
        return f"s3://KEY:hush@b/{key}{self.options}&region=us-east-1"

    def rows(self, prefix: str) -> list[dict[str, Any]]:
        """The rows of the Parquet files whose keys begin with `prefix`."""
        files = [data for key, data in sorted(self.objects.items()) if key.startswith(prefix) and data]
        return [row for data in files for row in pq.read_table(io.BytesIO(data)).to_pylist()]


class Handler(BaseHTTPRequestHandler):
    server: S3Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/b").lstrip("/")

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    def body(self) -> bytes:
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        data = read_chunks(self.rfile) if chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return read_chunks(io.BytesIO(data)) if "aws-chunked" in self.headers.get("Content-Encoding", "") else data

    def do_HEAD(self) -> None:
        found = not self.key or self.key in self.server.objects
        self.answer(200 if found else 404, self.server.objects.get(self.key, b""))

    def do_GET(self) -> None:
        if not self.key:
            self.answer(200, listing(list(self.server.objects.items()), **self.query))
            return
        start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
        self.answer(206, self.server.objects[self.key][int(start) : int(end) + 1])

    def do_PUT(self) -> None:
        if "partNumber" in self.query:
            self.server.parts.setdefault(self.key, {})[int(self.query["partNumber"])] = self.body()
        else:
            self.server.objects[self.key] = self.body()
        self.answer(200)

    def do_POST(self) -> None:
        self.body()
        if "uploads" in self.query:
            self.answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
            return
        parts = self.server.parts.pop(self.key)
        self.server.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
        self.answer(200, b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self.answer(204)


def read_chunks(file: io.BufferedIOBase | BinaryIO) -> bytes:
    """Return the data of a chunked transfer."""
    data = b""
    while size := int(file.readline().split(b";")[0], 16):
        data += file.read(size)
        file.readline()
    while file.readline().strip():
        pass
    return data


def listing(objects: list[tuple[str, bytes]], prefix: str = "", delimiter: str = "", **_: str) -> bytes:
    entries = set()
    for key, data in objects:
        if key.startswith(prefix):
            folder = key.find(delimiter, len(prefix)) if delimiter else -1
            if folder < 0:
                entries.add(f"<Contents><Key>{key}</Key><Size>{len(data)}</Size></Contents>")
            else:
                entries.add(f"<CommonPrefixes><Prefix>{key[: folder + 1]}</Prefix></CommonPrefixes>")
    head = f"<IsTruncated>false</IsTruncated><KeyCount>{len(entries)}</KeyCount>"
    return f"<ListBucketResult>{head}{''.join(sorted(entries))}</ListBucketResult>".encode()


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[S3Server]]:
    """Three servers, and the command in this process with the fake predictor."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job())
    monkeypatch.setattr(batch_pool, "run_pool", run_here)
    started = [S3Server() for _ in range(3)]
    yield started
    for server in started:
        server.shutdown()
        server.server_close()


def test_two_servers_with_the_same_bucket(servers: list[S3Server], capsys: pytest.CaptureFixture[str]) -> None:
    one, two, results = servers
    one.objects["cam/1.png"] = write_picture(Path("1.png"), [(8, 6, 20, 24)]).read_bytes()
    two.objects["cam/1.png"] = write_picture(Path("2.png"), []).read_bytes()
    two.objects["cam/bad.png"] = b""
    args = [one.address("cam"), two.address("cam/*.png"), two.address("no"), results.address("faces.parquet")]
    assert batch.main(args) == 1
    errors = [f"s3://b/cam/bad.png{two.options}", f"s3://b/no{two.options}"]
    out, err = capsys.readouterr()
    assert "photos:     2\n" in out and out.endswith(f"results:    s3://b/faces.parquet{results.options}\n")
    assert f"errors:     2, tried again by the same command: s3://b/faces.errors.parquet{results.options}\n" in out
    assert [line.removeprefix("error: ").rpartition(": ")[0] for line in err.splitlines()] == errors
    names = {f"s3://b/cam/1.png{one.options}", f"s3://b/cam/1.png{two.options}"}
    assert {row["file"] for row in results.rows("faces.parquet/")} == names
    assert [row["file"] for row in results.rows("faces.errors.parquet")] == errors
    assert batch.main(args) == 1
    out, err = capsys.readouterr()
    assert "photos:     0 (2 before)\n" in out and "hush" not in out + err
    assert b"hush" not in b"".join(results.objects.values())


def test_results_with_names_of_an_earlier_version_are_not_doubled(
    servers: list[S3Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = servers[0]
    one.objects["cam/1.png"] = write_picture(Path("1.png"), []).read_bytes()
    present = Storage.name
    with monkeypatch.context() as earlier:
        earlier.setattr(Storage, "name", lambda s, path: present(s, path) if s.is_local else f"s3://{path}")
        assert batch.main([one.address("cam"), "faces.parquet"]) == 0
    capsys.readouterr()
    assert batch.main([one.address("cam"), "faces.parquet"]) == 1
    what = "the results have it by its earlier name, without its server; name another place for the results"
    assert capsys.readouterr().err == f"error: s3://b/cam/1.png{one.options}: {what}, to process its photos again\n"
    assert batch.main([one.address("cam"), "other.parquet"]) == 0
