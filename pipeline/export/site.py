"""Writes a static site: the server's page with the model and a runtime for browsers, which needs no server."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.export.folders import FolderKind
from pipeline.export.graph.detector_graph import detector_graph
from pipeline.export.runtime import PACKAGE, VERSION, runtime_files
from pipeline.inference.bundle import Bundle
from pipeline.serve.page_files import DEVICE_FOLDER, MODEL_JSON, STATIC, page_html

MODEL = "mask-detector.onnx"
SERVICE_WORKER = "service-worker.js"
PAGE = "index.html"
CACHE_PREFIX = "mask-detector-"  # of the names under which a browser keeps sites of this command
# No photo can leave the device: the page may only connect to its own site.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
# The MIT licence wants its text with each copy; the npm package has none.
RUNTIME_LICENSE = f"""{PACKAGE} {VERSION}

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def device_files(bundle: Bundle, runtime: Path | None) -> dict[str, bytes]:
    """Return the files of the folder "device" by name: the model, its description and the runtime.

    Raises:
        UserError: the runtime cannot be obtained.
    """
    found = runtime_files(runtime)
    graph = detector_graph(bundle, optional_inputs=False).SerializeToString()
    sizes = len(graph) + max(len(data) for data in found.values())  # of the two files whose loading is shown
    description = json.dumps({"bytes": sizes, "bundle": bundle.describe()})
    files = {
        MODEL: graph,
        MODEL_JSON: description.encode(),
        "LICENSE.onnxruntime.txt": RUNTIME_LICENSE.encode(),
        **found,
    }
    return {f"{DEVICE_FOLDER}/{name}": data for name, data in files.items()}


def site_files(bundle: Bundle, runtime: Path | None) -> dict[str, bytes]:
    """Return all files of the site by their path.

    Raises:
        UserError: the runtime cannot be obtained.
    """
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    attributes = f'data-backends="device" data-service-worker="{SERVICE_WORKER}"'
    files = {
        PAGE: page_html(attributes, policy).encode(),
        **{f"static/{path.name}": path.read_bytes() for path in sorted(STATIC.iterdir()) if path.name != PAGE},
        **device_files(bundle, runtime),
    }
    return {**files, SERVICE_WORKER: _service_worker(files)}


def _service_worker(files: Mapping[str, bytes]) -> bytes:
    """Return the service worker that keeps these files; its version changes with them."""
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    names = ["./", *(name for name in files if name != PAGE)]
    version = CACHE_PREFIX + digest.hexdigest()[:16]
    head = f"const PREFIX = {CACHE_PREFIX!r};\nconst VERSION = {version!r};\n"
    head += f"const POLICY = {json.dumps(POLICY)};\nconst FILES = "
    body = (Path(__file__).parent / SERVICE_WORKER).read_text(encoding="utf-8")
    return (head + json.dumps(names, indent=2) + ";\n" + body).encode()


def _written_files(folder: Path) -> frozenset[str]:
    """Return the files of a site of any version, which its service worker lists; none where it is no site."""
    try:
        worker = (folder / SERVICE_WORKER).read_text(encoding="utf-8")
        (names,) = re.findall(r"^const FILES = (\[.*?\]);$", worker, re.DOTALL | re.MULTILINE)
        listed = frozenset(json.loads(names)) - {"./"}
    except (OSError, ValueError, TypeError):
        return frozenset()
    own = worker.startswith(f"const PREFIX = {CACHE_PREFIX!r};") and f"{DEVICE_FOLDER}/{MODEL_JSON}" in listed
    return listed | {PAGE, SERVICE_WORKER} if own else frozenset()


SITE = FolderKind("--web", "a site", _written_files)
