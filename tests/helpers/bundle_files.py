"""Edits a bundle's files."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any


def edit_meta(bundle: Path, **changes: Any) -> None:
    """Replace fields of bundle.json; a field whose value is ... is removed."""
    file = bundle / "bundle.json"
    record = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


def replace_graph(bundle: Path, name: str, data: bytes) -> None:
    """Replace a graph by another one, with its correct sha256."""
    (bundle / f"{name}.onnx").write_bytes(data)
    hashes = json.loads((bundle / "bundle.json").read_text())["sha256"]
    edit_meta(bundle, sha256={**hashes, name: sha256(data).hexdigest()})
