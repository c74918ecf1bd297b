"""Worker processes: results in order, one line for a killed worker, and no worker outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import MediaError, ProgrammingError, UserError
from common.processes import map_jobs

ROOT = Path(__file__).resolve().parents[2]


def kill_worker(_job):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_jobs_order(workers):
    assert list(map_jobs(abs, [-3, 2, -1, 0, 5], workers, chunksize=1)) == [3, 2, 1, 0, 5]


def test_a_killed_worker_gives_one_line():
    with pytest.raises(UserError, match="a worker process was killed"):
        list(map_jobs(kill_worker, [1, 2, 3], 2))


def exit_worker(_job):
    os._exit(3)


def fail(_job):
    raise AttributeError("nothing")


def test_a_worker_that_ends_by_itself_is_an_error_of_our_code():
    with pytest.raises(ProgrammingError, match="it ended with exit code 3"):
        list(map_jobs(exit_worker, [1, 2, 3], 2))


def refuse(_job):
    raise MediaError("a.jpg", "is empty")


def test_an_error_of_our_code_in_a_worker_has_its_traceback():
    with pytest.raises(ProgrammingError, match="AttributeError: nothing") as raised:
        list(map_jobs(fail, [1, 2, 3], 2))
    assert raised.value.trace.count("Traceback") == 1 and "in fail" in raised.value.trace
    with pytest.raises(AttributeError, match="nothing"):  # this process prints it itself
        list(map_jobs(fail, [1, 2, 3], 1))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_for_the_user_is_raised_as_it_is(workers):
    with pytest.raises(MediaError, match=r"a\.jpg: is empty"):
        list(map_jobs(refuse, [1, 2, 3], workers))


def is_running(pid):
    """Return whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from common.processes import map_jobs\n"
        "def pid(_):\n    time.sleep(0.2)\n    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    for one in map_jobs(pid, list(range(1000)), 2, chunksize=1):\n        print(one, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pids = {int(parent.stdout.readline()) for _ in range(4)}
        assert all(is_running(pid) for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(pid) for pid in pids)


WHILE_PROCESSES_START = """
import os, signal, subprocess, threading, time
from multiprocessing import resource_tracker, util
from common.processes import map_jobs

def main():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # it takes the signals that main blocks
    resource_tracker.ensure_running()  # a process of its own
    started = util.spawnv_passfds
    def start_and_interrupt(*args):
        pid = started(*args)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return pid
    util.spawnv_passfds = start_and_interrupt
    try:
        list(map_jobs(abs, [1, 2, 3], 2))
    except KeyboardInterrupt:
        print("interrupted", flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_while_the_processes_start_leaves_none_half_started(tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(WHILE_PROCESSES_START)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, script], check=False, capture_output=True, text=True, env=environment, timeout=60
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "interrupted\n", "")
