"""A stage in its own process: its errors arrive as they were, its death is noticed, and it dies with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.runners.apart import run_apart
from schemas.errors import FastslowError, GateError

REPO = Path(__file__).resolve().parents[3]


def test_the_function_runs_in_another_process(tmp_path):
    run_apart(os.makedirs, str(tmp_path / "made"))
    assert (tmp_path / "made").is_dir()


def test_what_the_function_returns_comes_back():
    assert run_apart(os.getppid) == os.getpid()
    assert run_apart(sorted, [3, 1, 2]) == [1, 2, 3]


def test_our_errors_arrive_with_their_type_and_text(tmp_path):
    from schemas.manifests import Generation

    with pytest.raises(FastslowError, match="missing.json: not found"):
        run_apart(Generation.read, str(tmp_path / "missing.json"))


def test_other_errors_arrive_as_one_line(tmp_path):
    with pytest.raises(FastslowError, match="FileNotFoundError: .*nothing here"):
        run_apart(os.listdir, str(tmp_path / "nothing here"))


@pytest.mark.parametrize(("function", "argument", "how"), [(os._exit, 9, "exit code 9"), (os.abort, None, "signal 6")])
def test_a_process_that_dies_is_an_error_with_the_way_out(function, argument, how):
    arguments = () if argument is None else (argument,)
    with pytest.raises(FastslowError, match=rf"died \({how}\).*Run the same command again"):
        run_apart(function, *arguments)


def test_a_gate_keeps_its_exit_code():
    from pipelines.reindex import gates
    from schemas.manifests import GateResult, GateResults

    result = GateResult(gate="size", passed=False, value=2, limit=1, said="2 is more than 1")
    with pytest.raises(GateError, match="size: 2 is more than 1") as caught:
        run_apart(gates.refuse, GateResults(dataset="d", number=7, gates=(result,)), "page")
    assert caught.value.exit_code == 3


def test_it_dies_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time, sys\n"
        "from pipelines.runners.apart import run_apart\n"
        "def work(path):\n"
        "    open(path, 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    run_apart(work, sys.argv[1])\n"
    )
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, str(script), str(pid_file)], env=os.environ | {"PYTHONPATH": str(REPO)})
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int(pid_file.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
