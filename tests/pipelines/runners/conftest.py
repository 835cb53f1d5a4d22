"""Real engines: a Flink cluster, Python workers beside it, Prism; skipped with the reason where they cannot be had."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from schemas.cache import cache_folder

REPO = Path(__file__).resolve().parents[3]
PRISM = "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"


def free_port() -> int:
    """One that nobody listens on, and that no connection is given by chance."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)):
                return port


class Flink:
    """A cluster of its own: a job manager, two task managers of one slot each; stopped at the end."""

    def __init__(self) -> None:
        self.port, self.rpc_port = free_port(), free_port()
        self.master = f"localhost:{self.port}"

    def do(self, verb: str) -> None:
        ports = {"FLINK_PORT": str(self.port), "FLINK_RPC_PORT": str(self.rpc_port)}
        environment = os.environ | ports | {"PYTHON": sys.executable}
        script = str(REPO / "deploy" / "flink" / "cluster.sh")
        done = subprocess.run([script, verb], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def jobs(self) -> dict[str, str]:
        """Name -> state of every job there was, the oldest first."""
        jobs = requests.get(f"http://{self.master}/jobs/overview", timeout=10).json()["jobs"]
        return {job["name"]: job["state"] for job in sorted(jobs, key=lambda job: job["start-time"])}

    def kill_task_manager(self) -> None:
        """kill -9 of one; `do("up")` starts another, as a supervisor would."""
        file = cache_folder() / "flink" / f"cluster-{self.port}" / "pid" / "flink-fastslow-taskexecutor.pid"
        os.kill(next(int(pid) for pid in reversed(file.read_text().split()) if Path("/proc", pid).exists()), 9)


@pytest.fixture(scope="session")
def flink() -> Iterator[Flink]:
    _need("java", "mvn", "curl")
    cluster = Flink()
    with pytest.MonkeyPatch.context() as environment:
        # no Java program lives long enough here to be worth optimizing
        environment.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        cluster.do("job-server")
        cluster.do("up")
        yield cluster
        cluster.do("down")


@pytest.fixture(scope="session")
def prism(kept) -> Path:
    """Beam's engine in Go."""

    def build(folder: Path) -> None:
        _need("go")
        environment = os.environ | {"GOBIN": str(folder), "CGO_ENABLED": "0"}
        quickly = ["-gcflags=all=-N -l", "-ldflags=-s -w"]  # compiled in three quarters of the time
        done = subprocess.run(["go", "install", *quickly, PRISM], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return kept(f"prism-{PRISM.rpartition('@')[2]}", build) / "prism"


@pytest.fixture
def worker_pool() -> Iterator[str]:
    """Python workers outside the driver, as beside a task manager: address of what starts a process for each."""
    command = [sys.executable, "-m", "pipelines.runners.worker_pool", f"--port={free_port()}"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        said = next((line for line in process.stderr if line.startswith("workers at ")), None)
        assert said is not None, "the pool of workers did not start"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield said.split()[-1]
        os.killpg(process.pid, 15)


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
