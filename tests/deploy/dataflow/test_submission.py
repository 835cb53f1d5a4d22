"""Every one of our Beam jobs, submitted to Dataflow's API on loopback: what arrives there, and what comes back."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from importlib import metadata
from pathlib import Path

import pytest
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2 as api

HERE = Path(__file__).parent
IMAGE = "us-central1-docker.pkg.dev/p-1/fastslow/worker:0.1.0"
TRACEBACK = "Traceback (most recent call last):\n  in process\nschemas.errors.InputError: a.tar: not a tar\n"
STEPS = {"embed": ("EmbedShards", "Embed"), "fill": ("FillPartials", "Fill"), "score": ("ScoreShards", "Score")}


@pytest.fixture(scope="module")
def submitted(google, environment, options, tmp_path_factory, google_cloud):
    """Title -> what `run_over` said, of all submissions below; the folder of those that were only described."""
    folder = tmp_path_factory.mktemp("described")
    # builds no package and lists no versions: faster
    unsent = [*options, "--setup_file=", "--experiments=disable_logging_submission_environment"]
    jobs = [{"title": f"dry-{kind}", "job": kind, "arguments": [*unsent, "--dry_run=True"]} for kind in STEPS]
    jobs.append({"title": "done", "job": "embed", "arguments": options})
    jobs += [
        {"title": title, "job": "score", "arguments": unsent}
        for title in ("failed", "cancelled", "stopped", "unanswered")
    ]
    template = "--template_location=gs://bucket/templates/fill"
    jobs.append({"title": "template", "job": "fill", "arguments": [*unsent, template]})
    endings = {"done": ("DONE",), "failed": ("FAILED", TRACEBACK), "cancelled": ("CANCELLED",)}
    interrupted = threading.Event()
    pids: list[int] = []

    def created(job) -> None:
        title = job.created["name"].split("-")[1]
        if title in ("failed", "stopped"):
            google_cloud.wait_for(lambda: job.state == "JOB_STATE_RUNNING")
        if title in endings:
            job.end(*endings[title])
        elif title == "stopped":
            os.kill(pids[0], signal.SIGINT)

    def answering(job) -> None:
        if "unanswered" in job.created["name"]:
            os.kill(pids[0], signal.SIGINT)
            interrupted.wait(2.0)  # the answer comes too late

    google.created, google.answering = created, answering
    command = [sys.executable, str(HERE / "submit.py"), json.dumps(jobs), str(folder)]
    said = {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    ) as process:
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
        reader.start()
        pids.append(json.loads(process.stdout.readline())["pid"])
        for line in process.stdout:
            one = json.loads(line)
            said[one.pop("title")] = one
        reader.join()
    assert set(said) == {job["title"] for job in jobs}, "".join(errors[-30:])
    return said, folder


def created(google, title: str):
    """The only job of that title."""
    [job] = [job for job in google.jobs if job.created["name"].split("-")[1] == title]
    return job


@pytest.mark.parametrize("kind", STEPS)
def test_of_a_dry_run_the_pipeline_is_whole_and_nothing_is_submitted(submitted, google, kind):
    said, folder = submitted
    assert said[f"dry-{kind}"] == {"counters": {}}
    assert not any(job.created["name"].startswith("fastslow-dry") for job in google.jobs)
    components = api.Pipeline.FromString((folder / f"dry-{kind}.pb").read_bytes()).components
    transform, step = STEPS[kind]
    names = {one.unique_name: one for one in components.transforms.values()}
    assert f"{transform}/Spread" in names
    payload = api.ParDoPayload.FromString(names[f"{transform}/{step}"].spec.payload)
    assert type(pickler.loads(payload.do_fn.payload)[0]).__name__ == f"_{transform[:-1]}"
    [environment] = components.environments.values()  # one: no hint keeps steps apart
    assert api.DockerPayload.FromString(environment.payload).container_image == IMAGE
    assert not environment.resource_hints
    made = json.loads((folder / f"dry-{kind}.json").read_text())
    assert made["job_name"].startswith(f"fastslow-dry-{kind}-{kind}-")


def test_the_job_has_the_machines_the_gpu_and_the_image_that_were_asked_for(submitted, google):
    said, _ = submitted
    assert said["done"] == {"counters": {}}
    job = created(google, "done")
    environment, pool = job.created["environment"], job.pool
    assert environment["serviceOptions"] == ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"]
    assert pool["machineType"] == "g2-standard-8"
    assert pool["diskSizeGb"] == 64
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 4
    assert {one["containerImage"] for one in pool["sdkHarnessContainerImages"]} == {IMAGE}
    assert environment["version"]["job_type"] == "FNAPI_BATCH"


def test_a_gpu_has_one_model_and_not_one_for_every_core(submitted, google):
    environment = created(google, "done").created["environment"]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert created(google, "done").pool["numThreadsPerWorker"] == 2


def test_our_package_is_staged_with_all_that_workers_read(submitted, google):
    packages = {one["name"]: one["location"] for one in created(google, "done").pool["packages"]}
    place = packages["workflow.tar.gz"].removeprefix("storage.googleapis.com/")
    with tarfile.open(fileobj=io.BytesIO(google[f"gs://{place}"])) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert names >= {
        "setup.py",
        "encoders/registry.py",
        "encoders/checkpoints/demo-loopitr/model.safetensors",
        "pipelines/embed/transforms.py",
        "pipelines/evaluate/report.html",
        "schemas/layout.py",
        "configs/datasets/demo.yaml",
        "configs/runners/dataflow.yaml",
    }
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "deploy/", "data/", "build/"))]


def test_the_staged_pipeline_is_the_one_that_the_job_names(submitted, google):
    job = created(google, "done")
    pipeline = api.Pipeline.FromString(google[job.options["pipelineUrl"]])
    assert "EmbedShards/Embed" in {one.unique_name for one in pipeline.components.transforms.values()}
    [environment] = pipeline.components.environments.values()
    assert {one.role_payload[2:].decode() for one in environment.dependencies} >= {"workflow.tar.gz"}
    assert job.options["pipelineUrl"].startswith("gs://bucket/tmp/fastslow-done-")
    assert job.options["save_main_session"] is False


def test_an_empty_setup_file_sends_no_package(submitted, google):
    assert created(google, "failed").pool.get("packages", []) == []


def test_workers_get_the_versions_that_submitted(submitted, google):
    packages = {one["name"]: one["location"] for one in created(google, "done").pool["packages"]}
    place = packages["submission_environment_dependencies.txt"].removeprefix("storage.googleapis.com/")
    assert f"apache-beam=={metadata.version('apache-beam')}" in google[f"gs://{place}"].decode()


def test_a_job_that_fails_says_why_and_where_its_logs_are(submitted, google):
    said, _ = submitted
    job = created(google, "failed")
    assert said["failed"]["error"] == "FastslowError"
    told = said["failed"]["message"]
    assert told.startswith(
        f"Dataflow job {job.created['name']} ended as FAILED: schemas.errors.InputError: a.tar: not a tar"
    )
    assert f"https://console.cloud.google.com/dataflow/jobs/us-central1/{job.id}?project=p-1" in told


def test_a_job_that_is_cancelled_there_is_an_error_here(submitted):
    said, _ = submitted
    assert said["cancelled"]["error"] == "FastslowError"
    assert "ended as CANCELLED" in said["cancelled"]["message"]


def test_control_c_cancels_the_job_there(submitted, google):
    said, _ = submitted
    assert said["stopped"]["error"] == "KeyboardInterrupt"
    job = created(google, "stopped")
    assert job.state == "JOB_STATE_CANCELLED"
    assert ("PUT", f"/v1b3/projects/p-1/locations/us-central1/jobs/{job.id}") in google.asked


def test_control_c_while_the_job_is_created_cancels_it_too(submitted, google):
    said, _ = submitted
    assert said["unanswered"]["error"] == "KeyboardInterrupt"
    assert created(google, "unanswered").state == "JOB_STATE_CANCELLED"


def test_a_template_is_written_and_no_job_created(submitted, google):
    said, _ = submitted
    assert said["template"] == {"counters": {}}
    described = json.loads(google["gs://bucket/templates/fill"])
    assert described["environment"]["workerPools"][0]["machineType"] == "g2-standard-8"
    assert not any("template" in job.created["name"] for job in google.jobs)
