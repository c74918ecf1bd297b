"""What the tests of the application share: small limits, a photo's type, and a look at its metrics."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient

from pipeline.serve.limits import Limits

LIMITS = Limits(max_bytes=100_000, max_pixels=1_000_000)
RAW = {"Content-Type": "image/png"}


def metric(client: TestClient, name: str, **headers: str) -> float:
    """Return the value of a metric, given its name with labels."""
    text = client.get("/metrics", headers=headers).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])
