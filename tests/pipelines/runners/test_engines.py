"""The same job on real engines leaves the same files, byte for byte."""

import hashlib
import logging
from pathlib import Path

import pytest

from pipelines.embed import job as embed
from pipelines.embed import queries
from pipelines.index import candidates
from pipelines.index import job as index
from pipelines.jobs import resolve_job
from pipelines.prepare import job as prepare
from pipelines.rerank import job as rerank
from schemas.jobs import Job

pytestmark = pytest.mark.usefixtures("index_libraries")

TIMED = "timings.json"


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    """A small demo: four shards of scenes, one of clips."""
    settings = ["prepare.images=32", "prepare.videos=4", "prepare.images_per_shard=8"]
    return prepare.run(resolve_job("demo", root=str(tmp_path_factory.mktemp("demo")), settings=settings)).shards


def run(root: Path, shards: list[str], runner: str | None = None, *beam_args: str) -> Job:
    """Every Beam job of the pipeline: embed, fill, score."""
    settings = ["index.key=IVF4,Flat"]  # has lists, which are filled part by part
    job = resolve_job("demo", beam_args, root=str(root), runner=runner, shards=shards, settings=settings)
    embedded = embed.run(job, shards)
    asked = queries.run(job, embedded, None)
    built = index.run(job, embedded.manifests, asked)
    rerank.run(job, embedded, candidates.run(job, embedded.manifests, built, asked), asked)
    return job


def files(root: Path) -> dict[str, str]:
    """Path -> sha256 of all that a run left, but for its seconds."""
    paths = (path for path in root.rglob("*") if path.is_file() and path.name != TIMED)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def local(shards, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("local")
    run(root, shards)
    return files(root)


def test_a_local_run_has_all_three_jobs(local):
    kinds = {path.split("/")[0] for path in local}
    assert {"embeddings", "indexes", "scores", "rankings"} <= kinds
    assert any(path.startswith("trained/") and path.endswith(".lists") for path in local)


def test_every_bundle_run_twice(local, shards, tmp_path):
    run(tmp_path, shards, None, "--direct_runner_bundle_repeat=1")
    assert files(tmp_path) == local


@pytest.mark.slow
def test_two_processes(local, shards, tmp_path, caplog):
    preset = tmp_path / "two.yaml"
    preset.write_text("processes: 2\n")
    job = resolve_job("demo", root=str(tmp_path / "root"), runner=str(preset), shards=shards)
    with caplog.at_level(logging.INFO):
        embed.run(job, shards)
    assert "2 processes" in caplog.text
    assert "embed demo: 36 items" in caplog.text  # counted by what they commit
    here = files(tmp_path / "root")
    assert {path: digest for path, digest in local.items() if path.startswith("embeddings/")}.items() <= here.items()


def test_prism(local, shards, tmp_path, prism):
    run(tmp_path, shards, "prism", f"--prism_location={prism}")
    assert files(tmp_path) == local


def test_flink_with_its_work_done_in_this_process(local, shards, tmp_path, flink):
    before = flink.jobs()
    run(tmp_path, shards, "flink", f"--flink_master={flink.master}")
    assert files(tmp_path) == local
    jobs = {name.rpartition("-")[0]: state for name, state in flink.jobs().items() if name not in before}
    stages = ("embed-shards", "fill-partials", "score-shards")
    assert jobs == {f"fastslow-demo-{stage}": "FINISHED" for stage in stages}


def test_flink_with_python_workers_beside_it(local, shards, tmp_path, flink, worker_pool):
    options = [f"--flink_master={flink.master}", f"--environment_config={worker_pool}", "--parallelism=1"]
    run(tmp_path, shards, "flink-workers", *options)
    assert files(tmp_path) == local
