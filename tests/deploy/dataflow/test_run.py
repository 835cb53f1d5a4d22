"""The whole job with Dataflow's runner: what is staged is really run, by workers that have nothing else; a template.

Google's machines, images and quotas are not in this: workers are processes of this machine.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPO = HERE.parents[2]
DATA = ("shards", "embeddings", "queries", "trained", "indexes", "candidates", "scores", "rankings")
SUFFIXES = (".tar", ".tsv", ".parquet", ".faiss", ".lists", ".npy", ".npz", ".trec")
SMALL = ["prepare.images=48", "prepare.videos=8", "prepare.images_per_shard=24", "rerank.depth=4"]
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_staged(google, environment, client, tmp_path_factory):
    """(job JSON) -> exit code and errors of a worker that was given what the job names, and no other code of ours."""

    def run(job: dict) -> tuple[int, str]:
        folder = tmp_path_factory.mktemp("worker")
        [pool] = job["environment"]["workerPools"]
        for package in pool["packages"]:
            (folder / package["name"]).write_bytes(
                google[package["location"].replace("storage.googleapis.com/", "gs://")]
            )
        packages = folder / "packages"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*install, "--target", str(packages), str(folder / "workflow.tar.gz")], check=True, cwd=folder)
        (folder / "pipeline.pb").write_bytes(google[job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]])
        command = [sys.executable, str(HERE / "worker.py"), str(folder / "pipeline.pb"), str(packages)]
        variables = environment | {"PYTHONPATH": f"{packages}{os.pathsep}{client}".rstrip(os.pathsep)}
        done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    return run


@pytest.fixture(scope="module")
def fastslow(google, environment, options, run_staged, tmp_path_factory):
    """Runs the command; its jobs are run as they come."""

    def created(job) -> None:
        code, errors = run_staged(job.created)
        job.end("FAILED", errors) if code else job.end("DONE")

    google.created = created

    def run(*arguments: str, beam: tuple[str, ...] = ()) -> str:
        command = [sys.executable, "-m", "pipelines.cli", *arguments]
        command += ["--", *options, *beam] if "--runner" in arguments else []
        folder = tmp_path_factory.mktemp("anywhere")
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def indexed(fastslow) -> dict:
    """Summary of a run on Dataflow, into a bucket."""
    said = fastslow("reindex", "demo", "--root", "gs://bucket/root", "--runner", "dataflow", *SETTINGS, "--json")
    return json.loads(said)


def digests(files: dict[str, bytes]) -> dict[str, list[str]]:
    """Kind of file -> digests of those that hold data, by path below a root.

    Names hold the checksums that a store keeps of shards, and manifests the names: neither is compared.
    """
    held = {name: data for name, data in files.items() if name.startswith(DATA)}
    return {
        suffix: sorted(hashlib.sha256(data).hexdigest() for name, data in held.items() if name.endswith(suffix))
        for suffix in SUFFIXES
    }


def test_the_whole_job_leaves_the_same_data_as_on_this_machine(indexed, google, fastslow, tmp_path):
    assert indexed["generation"] == 1
    stages = [job.created["name"].rsplit("-", 1)[0] for job in google.jobs]
    assert stages == [f"fastslow-demo-{stage}" for stage in ("embed-shards", "fill-partials", "score-shards")]
    assert {job.state for job in google.jobs} == {"JOB_STATE_DONE"}
    fastslow("reindex", "demo", "--root", str(tmp_path), *SETTINGS)
    there = {name[5:]: stored.data for (_, name), stored in google.objects.items() if name.startswith("root/")}
    here = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert all(digests(here).values())
    assert digests(there) == digests(here)


def test_a_worker_that_fails_is_heard(indexed, google, environment, options, monkeypatch):
    shard = next(stored for (_, name), stored in google.objects.items() if name.endswith(".tar"))
    google.objects["bucket", "gone/a.tar"] = shard
    work = google.created

    def created(job) -> None:
        del google.objects["bucket", "gone/a.tar"]  # after it was planned
        work(job)

    monkeypatch.setattr(google, "created", created)
    command = [sys.executable, "-m", "pipelines.cli", "embed", "demo", "--root", "gs://bucket/other"]
    command += ["--shards", "gs://bucket/gone/*.tar", "--runner", "dataflow-cpu", "--", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ended as FAILED" in done.stderr
    assert "gone/a.tar" in done.stderr.splitlines()[-1]
    assert "serviceOptions" not in google.jobs[-1].created["environment"]  # no GPU


def test_a_template_describes_the_job_that_embeds(indexed, google, run_staged, environment, options):
    jobs = len(google.jobs)
    [folder] = {
        name.rpartition("/")[0]
        for _, name in google.objects
        if name.startswith("root/shards/") and name.endswith(".tar")
    }
    given = ["--dataset=demo", "--root=gs://bucket/launched", f"--shards=gs://bucket/{folder}/*.tar"]
    launcher = [*given, *options, "--template_location=gs://bucket/launches/1/job_object", "--job_name=nightly-1"]
    command = [sys.executable, str(REPO / "deploy/dataflow/launch.py"), *launcher]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(google.jobs) == jobs
    described = json.loads(google["gs://bucket/launches/1/job_object"])
    assert described["name"] == "nightly-1"
    code, errors = run_staged(described)
    assert code == 0, errors
    manifests = [
        name for _, name in google.objects if name.startswith("launched/embeddings/") and name.endswith(".json")
    ]
    shards = [name for _, name in google.objects if name.startswith(f"{folder}/") and name.endswith(".tar")]
    assert len(manifests) == len(shards)
