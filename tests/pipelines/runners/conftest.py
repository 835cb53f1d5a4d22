"""Real engines: a Flink cluster, Python workers beside it, Prism; skipped with the reason where they cannot be had."""

import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

REPO = Path(__file__).resolve().parents[3]
CACHE = Path(os.environ.get("FASTSLOW_CACHE") or Path.home() / ".cache" / "fastslow")
PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"
STARTED_WITHIN_S = 30.0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Flink:
    """A cluster of its own: a job manager, two task managers of one slot each; stopped at the end."""

    def __init__(self) -> None:
        self.port = free_port()
        self.master = f"localhost:{self.port}"

    def do(self, verb: str) -> None:
        environment = os.environ | {"PYTHON": sys.executable, "FLINK_PORT": str(self.port)}
        script = str(REPO / "deploy" / "flink" / "cluster.sh")
        done = subprocess.run([script, verb], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def jobs(self) -> dict[str, str]:
        """Name -> state of every job there was, the oldest first."""
        jobs = requests.get(f"http://{self.master}/jobs/overview", timeout=10).json()["jobs"]
        return {job["name"]: job["state"] for job in sorted(jobs, key=lambda job: job["start-time"])}

    def kill_task_manager(self) -> None:
        """kill -9 of one; `do("up")` starts another, as a supervisor would."""
        file = CACHE / "flink" / f"cluster-{self.port}" / "pid" / "flink-fastslow-taskexecutor.pid"
        os.kill(next(int(pid) for pid in reversed(file.read_text().split()) if Path("/proc", pid).exists()), 9)


@pytest.fixture(scope="session")
def flink() -> Iterator[Flink]:
    _need("java", "mvn", "curl")
    cluster = Flink()
    cluster.do("job-server")
    cluster.do("up")
    yield cluster
    cluster.do("down")


@pytest.fixture(scope="session")
def prism() -> Path:
    """Beam's engine in Go, built once."""
    place = CACHE / "go" / "prism"
    if not place.is_file():
        _need("go")
        environment = os.environ | {"GOBIN": str(place.parent)}
        done = subprocess.run(["go", "install", PRISM], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def worker_pool() -> Iterator[str]:
    """Python workers outside the driver, as beside a task manager: address of what starts a process for each."""
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.runners.worker_pool", f"--port={port}"],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        start_new_session=True,
        **quiet,
    )
    end = time.monotonic() + STARTED_WITHIN_S
    while True:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert time.monotonic() < end, f"nothing answers on port {port}"
        time.sleep(0.2)
    yield f"localhost:{port}"
    os.killpg(process.pid, 15)
    process.wait()


@pytest.fixture(scope="session")
def index_libraries() -> None:
    """They warn while they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import autofaiss  # noqa: F401


def _need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
