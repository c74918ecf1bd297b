"""Runs a command and reports its wall time and peak memory. This process is too small to count.

A process's peak memory includes that of its parent when it started, and the benchmark itself holds PyTorch.
Example: python -m pipeline.bench.measure_process FILE.json python -c pass
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def measured(
    module: str, arguments: Sequence[str | Path | float], working_folder: Path | str | None = None
) -> dict[str, float]:
    """Run `python -m MODULE ARGUMENTS`, in a working folder if one is given.

    Returns the process's wall time, "seconds", and the most memory (resident set) that it held, "megabytes".
    Raises UserError with the command's last line when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "measured.json"
        command = [sys.executable, "-m", module, *map(str, arguments)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.bench.measure_process", str(report), *command],
            capture_output=True,
            check=False,
            cwd=working_folder,
            env={**os.environ, "PYTHONPATH": path},
        )
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"{module} failed: {lines[-1] if lines else f'code {done.returncode}'}")
        return cast(dict[str, float], json.loads(report.read_text(encoding="utf-8")))


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
