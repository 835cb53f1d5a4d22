"""Flink at its worst: task managers killed in the middle of a job, and Ctrl-C at the terminal."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from pipelines.embed import job as embed
from pipelines.embed import queries
from pipelines.index import candidates
from pipelines.index import job as index
from pipelines.jobs import resolve_job
from pipelines.prepare import job as prepare
from pipelines.rerank import job as rerank
from schemas.errors import FastslowError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("index_libraries"),
    # a worker of this process whose task manager is killed
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

REPO = Path(__file__).resolve().parents[3]
KILLS = int(os.environ.get("FASTSLOW_KILLS", "5"))
SHOWN_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    """Enough of them for a job to be caught in the middle."""
    settings = ["prepare.images=768", "prepare.videos=16", "prepare.images_per_shard=24"]
    return prepare.run(resolve_job("demo", root=str(tmp_path_factory.mktemp("demo")), settings=settings)).shards


class Killer(threading.Thread):
    """Kills a task manager once a job runs, a while later, and starts another."""

    def __init__(self, flink, stage: str, after_s: float) -> None:
        super().__init__()
        self.flink, self.stage, self.after_s = flink, stage, after_s
        self.before = flink.jobs()
        self.found: str | None = None

    def run(self) -> None:
        end = time.monotonic() + SHOWN_WITHIN_S
        while self.found is None and time.monotonic() < end:
            new = (name for name, state in self.flink.jobs().items() if name not in self.before and state == "RUNNING")
            self.found = next((name for name in new if self.stage in name), None)
            time.sleep(0.1)
        time.sleep(self.after_s)
        self.flink.kill_task_manager()
        self.flink.do("up")


def resolved(root: Path, shards: list[str], *beam_args: str, runner: str | None = None):
    return resolve_job("demo", beam_args, root=str(root), runner=runner, shards=shards)


def embedded(job, shards: list[str]) -> None:
    embed.run(job, shards)


def reranked(job, shards: list[str]) -> None:
    """What comes before has been done here; it is only read."""
    parts = embed.run(job, shards)
    asked = queries.run(job, parts, None)
    built = index.run(job, parts.manifests, asked)
    rerank.run(job, parts, candidates.run(job, parts.manifests, built, asked), asked)


def files(root: Path) -> dict[str, str]:
    paths = (path for path in root.rglob("*") if path.is_file() and path.name != "timings.json")
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize(("stage", "do"), [("embed-shards", embedded), ("score-shards", reranked)])
@pytest.mark.parametrize("workers", ["here", "beside"])
def test_a_task_manager_killed_costs_time_alone(stage, do, workers, flink, worker_pool, shards, tmp_path):
    calm = tmp_path / "calm"
    do(resolved(calm, shards), shards)
    chance = random.Random(f"{stage} {workers}")
    options = [f"--flink_master={flink.master}"]
    if workers == "beside":
        options.append(f"--environment_config={worker_pool}")
    recovered = 0
    for kill in range(KILLS):
        root = tmp_path / f"kill-{kill}"
        if stage == "score-shards":
            first = resolved(root, shards)
            parts = embed.run(first, shards)
            asked = queries.run(first, parts, None)
            candidates.run(first, parts.manifests, index.run(first, parts.manifests, asked), asked)
        job = resolved(root, shards, *options, runner="flink" if workers == "here" else "flink-workers")
        killer = Killer(flink, stage, chance.uniform(0, 12))
        killer.start()
        try:
            do(job, shards)
            recovered += 1
        except (FastslowError, RuntimeError):
            killer.join()
            do(job, shards)  # it failed clearly: run again
        killer.join()
        assert killer.found, f"no {stage} job ran"
        assert files(root) == files(calm), f"kill {kill} after {killer.after_s:.1f} s"
    assert recovered, "the cluster recovered from none"


def test_control_c_cancels_the_job_on_the_cluster(flink, shards, tmp_path):
    config = {"name": "demo", "shards": shards, "encoder": "demo-loopitr", "scorer": "demo-loopitr"}
    asked = tmp_path / "many.yaml"
    asked.write_text(yaml.safe_dump(config))
    before = flink.jobs()
    where = ["--root", str(tmp_path / "root"), "--runner", "flink", "--", f"--flink_master={flink.master}"]
    run = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "embed", str(asked), *where],
        env=os.environ | {"PYTHONPATH": str(REPO)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + SHOWN_WITHIN_S
    while not (new := {name: state for name, state in flink.jobs().items() if name not in before}):
        assert time.monotonic() < end, "the job never got to the cluster"
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the job server, too
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("fastslow: interrupted")
    [name] = new
    assert flink.jobs()[name] == "CANCELED"
