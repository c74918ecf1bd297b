"""Runs a command and tells its wall time and peak memory: a process of its own, so small that it does not count.

A process's peak memory starts with that of the one that made it; made by the benchmark itself, which holds PyTorch, it
would be that one's. Example: python -m pipeline.bench.measure_process FILE.json python -c pass
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    """Runs argv[1:], writes {"seconds", "megabytes"} to the file argv[0], and returns the command's exit code."""
    begin = time.perf_counter()
    code = subprocess.run(argv[1:], check=False).returncode
    seconds = time.perf_counter() - begin
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6
    Path(argv[0]).write_text(json.dumps({"seconds": seconds, "megabytes": megabytes}), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
