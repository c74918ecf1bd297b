"""Runs a command and reports its wall time and peak memory. This process is too small to count.

A process's peak memory includes that of its parent when it started, and the benchmark itself holds PyTorch.
Example: python -m pipeline.bench.measure_process FILE.json python -c pass
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run argv[1:], write {"seconds", "megabytes"} to the file argv[0], and return the command's exit code."""
    start = time.perf_counter()
    code = subprocess.run(argv[1:], check=False).returncode
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes on other systems
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6
    Path(argv[0]).write_text(json.dumps({"seconds": seconds, "megabytes": megabytes}), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
