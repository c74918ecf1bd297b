"""pipeline.bench.measure_process reports the command, not its caller."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def measure(tmp_path: Path, code: str) -> tuple[int, dict[str, float]]:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pipeline.bench.measure_process", str(report), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=False)
    return done.returncode, json.loads(report.read_text())


def test_time_and_memory_are_the_commands(tmp_path: Path) -> None:
    ballast = bytearray(300_000_000)  # the memory of this process must not count
    code, small = measure(tmp_path, "pass")
    assert code == 0 and small["megabytes"] < 100
    del ballast
    code, large = measure(tmp_path, "import time; held = b'x' * 200_000_000; time.sleep(0.3)")
    assert code == 0 and large["megabytes"] > small["megabytes"] + 150
    assert large["seconds"] >= 0.3


def test_a_failing_command_gives_its_code(tmp_path: Path) -> None:
    assert measure(tmp_path, "raise SystemExit(7)")[0] == 7
