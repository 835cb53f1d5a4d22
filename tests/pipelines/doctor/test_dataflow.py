"""Options that Dataflow would refuse minutes after a submission, or that could not work; nothing of Google is asked."""

from contextlib import suppress
from importlib import metadata

import pytest

from pipelines.doctor import runner
from pipelines.jobs import resolve_runner
from pipelines.runners import dataflow

GIVEN = ["--project=p-1", "--region=us-central1", "--temp_location=gs://bucket/tmp"]
IMAGE = "--sdk_container_image=us-central1-docker.pkg.dev/p-1/fastslow/worker:0.1.0"
T4 = "--dataflow_service_options=worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver"
HINT = "--resource_hint=accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


@pytest.fixture(autouse=True)
def client(tmp_path, monkeypatch):
    """As if Dataflow's client were installed; nothing of it is called."""
    folder = tmp_path / "site" / "google_cloud_dataflow_client-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: google-cloud-dataflow-client\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    return monkeypatch


def look(*beam_args: str, preset: str = "dataflow", root: str = "gs://bucket/root", given=(*GIVEN, IMAGE), **what):
    return runner.look(resolve_runner(preset, [*given, *beam_args]), root=root, **what)


def errors(*beam_args: str, **what) -> str:
    """What the only finding, an error, says."""
    [one] = look(*beam_args, **what)
    assert one.state == "error", one
    return f"{one.found} -> {one.remedy}"


@pytest.mark.parametrize("preset", ["dataflow", "dataflow-cpu"])
def test_the_presets_need_a_project_a_region_a_bucket_and_an_image(preset):
    [found] = look(preset=preset)
    assert (found.state, found.found) == ("ok", "DataflowRunner")
    assert "missing: project, region, temp_location" in errors(preset=preset, given=[IMAGE])
    assert "no --sdk_container_image: Beam's own has neither torch nor gcsfs" in errors(preset=preset, given=GIVEN)
    assert look("--requirements_file=all.txt", preset=preset, given=GIVEN)[0].state == "ok"


def test_it_needs_its_client(client):
    client.undo()
    with suppress(metadata.PackageNotFoundError):
        metadata.distribution("google-cloud-dataflow-client")
        pytest.skip("Dataflow's client is installed here")
    assert "pip install 'fastslow[dataflow,gcs]'" in errors()


@pytest.mark.parametrize("place", ["/tmp/staging", "gs://bucket", "gs://bucket/", "s3://bucket/tmp"])
def test_what_is_staged_goes_to_a_folder_of_a_bucket(place):
    assert f"--staging_location={place} -> a folder of a bucket" in errors(f"--staging_location={place}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([HINT], "hints and a worker_accelerator exclude each other"),
        (["--resource_hint=min_ram=32GB"], "hints and a worker_accelerator exclude each other"),
        (["--experiments=use_multiple_sdk_containers"], "exclude each other"),
        (
            ["--machine_type=n1-standard-8"],
            "--machine_type=n1-standard-8 cannot have an nvidia-l4 -> --machine_type=g2-",
        ),
        ([T4], "--machine_type=g2-standard-8 cannot have an nvidia-tesla-t4 -> --machine_type=n1-"),
        (
            ["--dataflow_service_options=worker_accelerator=type:nvidia-l4"],
            "worker_accelerator=type:nvidia-l4 -> type:",
        ),
        (["--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1"], "no driver -> add"),
        (["--environment_type=LOOPBACK"], "--environment_type=LOOPBACK: its workers are containers"),
        (["--environment_type=DOCKER"], "--environment_type=DOCKER: its workers are containers"),
        (["--setup_file=elsewhere/setup.py"], "no such file -> leave it out: a checkout sends its own"),
    ],
)
def test_what_excludes_each_other_is_refused_by_name(arguments, said):
    assert said in errors(*arguments)


def test_hints_do_not_work_with_flexible_scheduling():
    for hint in (HINT, "--resource_hint=min_ram=32GB"):
        assert "--flexrs_goal" in errors(hint, "--flexrs_goal=COST_OPTIMIZED", preset="dataflow-cpu")
    assert look("--flexrs_goal=COST_OPTIMIZED", preset="dataflow-cpu")[0].state == "ok"


def test_another_gpu_takes_the_place_of_the_presets():
    where = resolve_runner("dataflow", [T4, "--machine_type=n1-standard-8", "--experiments=other"])
    assert [one for one in where.beam_args if "worker_accelerator" in one] == [T4]
    assert "--experiments=no_use_multiple_sdk_containers" in where.beam_args
    assert look(T4, "--machine_type=n1-standard-8")[0].state == "ok"
    assert "more than one" in errors(T4, T4.replace("t4", "v100"), "--machine_type=n1-standard-8")


def test_a_model_for_every_core_is_a_warning(tmp_path):
    bare = tmp_path / "bare.yaml"
    bare.write_text("options: {runner: DataflowRunner, machine_type: n1-standard-8}\n")
    [found] = look(T4, preset=str(bare))
    assert (found.state, found.remedy) == (
        "warning",
        "--experiments=no_use_multiple_sdk_containers: one model a worker",
    )


def test_workers_must_reach_root_shards_and_models(tmp_path):
    models = {"encoder": str(tmp_path), "scorer": "builtin:demo-loopitr"}
    found = look(root="build", shards=("/data/a.tar", "/data/b.tar"), models=models)
    assert {(one.check, one.state) for one in found} == {("reach", "error")}
    assert [one.found.partition(" is on")[0] for one in found] == [
        "--root build",
        "shard /data/a.tar",
        f"encoder {tmp_path}",
    ]
    assert found[2].remedy == "a model of the hub, or one shipped with fastslow"


def test_without_sources_nothing_is_sent_and_the_image_must_have_it(monkeypatch):
    monkeypatch.setattr(dataflow, "own_package", lambda: None)
    [found] = look()
    assert found.state == "warning"
    assert "the image must have this version" in found.found
    assert look("--setup_file=")[0].state == "ok"
