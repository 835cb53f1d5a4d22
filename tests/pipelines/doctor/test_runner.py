"""Options that a run would stumble over, against real ports and programs; those of a sound setup pass."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from pipelines.doctor import runner
from schemas.jobs import Runner

CLOSED = "127.0.0.1:9"
FLINK = {"taskmanagers": 1, "slots-total": 2, "slots-available": 2, "jobs-running": 0, "flink-version": "2.2.1"}


def look(*beam_args: str, root: str = "s3://bucket/root", shards: tuple[str, ...] = (), models=None):
    models = {side: str(path) for side, path in (models or {}).items()}
    return runner.look(Runner(beam_args=beam_args), root=root, shards=shards, models=models)


def only(found, state: str) -> str:
    """What the only finding says."""
    [one] = found
    assert one.state == state, one
    return f"{one.found} -> {one.remedy}"


@pytest.fixture
def flink(http_server):
    """What its REST port says -> address of a job manager."""

    def start(**changes: object) -> str:
        return http_server(lambda path: json.dumps(FLINK | changes).encode() if path == "/overview" else None)

    return start


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """(name -> shell script) -> the only programs on the PATH."""

    def install(**scripts: str) -> None:
        folder = tmp_path / "bin"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    install(java="")
    return install


@pytest.fixture
def listening():
    """Address of an open port, as a worker pool has one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_without_options_the_run_is_ours():
    assert only(look(), "ok").startswith("Beam's own")


@pytest.mark.parametrize(
    ("arguments", "state", "said"),
    [
        (["--runner=FlinkRunner", "--flink_version=1.18"], "error", "invalid choice: '1.18'"),
        (["--direct_num_workers=many"], "error", "invalid int value: 'many'"),
        (["--runner=FlonkRunner"], "error", "--runner=FlonkRunner: Unexpected pipeline runner: FlonkRunner"),
        (["--runner=no.such.module.Runner"], "error", "No module named 'no'"),
        (["--direct_num_worker=2"], "warning", "Beam knows no --direct_num_worker and drops it"),
        ([f"--direct_num_workers={len(os.sched_getaffinity(0)) + 1}"], "warning", "leave it out"),
        (["--direct_running_mode=multi_processing"], "warning", "if one is killed the run hangs"),
        (["--runner=DirectRunner"], "warning", "tries to download another engine"),
        (["--resource_hint=accelerator=type:nvidia-l4;count:1"], "warning", "only Dataflow acts on accelerator=type"),
        (["--direct_runner_bundle_repeat=1"], "ok", "LocalRunner"),
        (["--runner=pipelines.runners.local.LocalRunner"], "ok", "LocalRunner"),
    ],
)
def test_options_of_a_run_on_this_machine(arguments, state, said):
    assert said in only(look(*arguments, root="build"), state)


def test_a_cluster_that_answers_and_workers_in_this_process_are_well(flink, programs):
    master = f"--flink_master={flink()}"
    assert only(look("--runner=FlinkRunner", master, "--environment_type=LOOPBACK", root="build"), "ok") == (
        "FlinkRunner -> "
    )
    assert only(look("--runner=FlinkRunner", root="build"), "ok") == "FlinkRunner -> "  # Flink starts inside the job


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flink-version": "1.20.5"}, "runs Flink 1.20.5, --flink_version is 2.2"),
        ({"slots-total": 0, "taskmanagers": 0}, "has no task slot"),
    ],
)
def test_a_cluster_that_would_not_do_is_told_why(flink, programs, changes, said):
    found = look("--runner=FlinkRunner", f"--flink_master=http://{flink(**changes)}", "--environment_type=LOOPBACK")
    assert said in only(found, "error")


def test_a_cluster_that_is_down_is_an_error(programs):
    found = look("--runner=FlinkRunner", f"--flink_master={CLOSED}", "--environment_type=LOOPBACK")
    assert f"--flink_master={CLOSED} does not answer as Flink does (ConnectionError)" in only(found, "error")


def test_what_answers_but_is_not_flink_is_an_error(http_server, programs):
    master = f"--flink_master={http_server(lambda _: b'<html>another program</html>')}"
    found = look("--runner=FlinkRunner", master, "--environment_type=LOOPBACK")
    assert "does not answer as Flink does (JSONDecodeError)" in only(found, "error")


def test_the_job_server_needs_java_unless_the_cluster_is_given_the_whole_jar(flink, programs):
    programs()
    arguments = ["--runner=FlinkRunner", f"--flink_master={flink()}", "--environment_type=LOOPBACK"]
    assert "java: not found" in only(look(*arguments), "error")
    assert only(look(*arguments, "--flink_submit_uber_jar"), "ok")


SHIPPED = "--setup_file=setup.py"


@pytest.mark.parametrize(
    ("docker", "said"),
    [
        (None, "docker is not on the PATH"),
        (
            "echo 'ERROR: Cannot connect to the Docker daemon. Is it running?' >&2; exit 1",
            "docker has no daemon (ERROR",
        ),
        ("exec /bin/sleep 30", "docker does not answer (TimeoutExpired)"),
    ],
    ids=["no docker", "no daemon", "hangs"],
)
def test_containers_without_docker_are_an_error_where_the_workers_are_here(flink, programs, docker, said, monkeypatch):
    monkeypatch.setattr(runner, "ANSWER_S", 1.0)
    programs(java="", **({"docker": docker} if docker else {}))
    arguments = ["--runner=FlinkRunner", f"--flink_master={flink()}", SHIPPED]
    for kind in ([], ["--environment_type=DOCKER"]):
        found = only(look(*arguments, *kind), "error")
        assert f"--environment_type=DOCKER (the default): {said}" in found
        assert "LOOPBACK" in found
    programs(java="", docker="exit 0")
    assert only(look(*arguments), "ok")


def test_containers_elsewhere_are_only_a_warning(programs):
    found = look("--runner=FlinkRunner", "--flink_master=192.0.2.1:8081", SHIPPED, root="gs://bucket/root")
    assert [(one.check, one.state) for one in found] == [("flink", "error"), ("workers", "warning")]


def test_a_worker_pool_is_asked_for_and_must_answer(flink, programs, listening):
    arguments = ["--runner=FlinkRunner", f"--flink_master={flink()}", "--environment_type=EXTERNAL", SHIPPED]
    assert "Option external_service_address is required" in only(look(*arguments), "error")
    found = only(look(*arguments, f"--environment_config={CLOSED}"), "error")
    assert "no worker pool answers -> python -m pipelines.runners.worker_pool --port=9" in found
    assert only(look(*arguments, f"--environment_config={listening}"), "ok")


def test_processes_need_a_command_and_kinds_must_be_known(flink, programs):
    arguments = ["--runner=FlinkRunner", f"--flink_master={flink()}", SHIPPED]
    assert "Option process_command is required" in only(look(*arguments, "--environment_type=PROCESS"), "error")
    command = "--environment_option=process_command=/opt/apache/beam/boot"
    assert only(look(*arguments, "--environment_type=PROCESS", command), "ok")
    assert "expected one of DOCKER, PROCESS" in only(look(*arguments, "--environment_type=PODMAN"), "error")


def test_a_job_server_that_is_down_is_an_error(listening):
    arguments = ["--runner=PortableRunner", "--environment_type=LOOPBACK"]
    assert "does not answer" in only(look(*arguments, f"--job_endpoint={CLOSED}"), "error")
    assert only(look(*arguments, f"--job_endpoint={listening}"), "ok")


def test_workers_must_get_our_code(flink, programs, tmp_path):
    arguments = ["--runner=FlinkRunner", f"--flink_master={flink()}", "--environment_type=DOCKER"]
    programs(java="", docker="")
    assert "where they get fastslow from" in only(look(*arguments), "warning")
    assert "no such file" in only(look(*arguments, f"--setup_file={tmp_path}/setup.py"), "error")
    assert only(look(*arguments, "--sdk_container_image=registry/fastslow:1"), "ok")


@pytest.mark.parametrize("kind", [[], ["--environment_type=EXTERNAL", "--environment_config=localhost:50000"]])
def test_workers_elsewhere_must_reach_root_shards_and_models(programs, kind, tmp_path):
    programs(java="", docker="")
    arguments = ["--runner=FlinkRunner", "--flink_master=192.0.2.1:8081", SHIPPED, *kind]
    found = look(*arguments, root=str(Path.cwd()), shards=("/data/a.tar", "/data/b.tar"), models={"encoder": tmp_path})
    assert [(one.check, one.state) for one in found] == [("flink", "error"), *[("reach", "error")] * 3]
    assert [one.found.partition(" is on")[0] for one in found[1:]] == [
        f"--root {Path.cwd()}",
        "shard /data/a.tar",
        f"encoder {tmp_path}",
    ]
    assert all("shared_folders: true" in one.remedy for one in found[1:])
    shared = Runner(beam_args=tuple(arguments), shared_folders=True)
    found = runner.look(shared, root=str(Path.cwd()), models={"encoder": str(tmp_path)})
    assert [one.check for one in found] == ["flink"]


def test_models_that_workers_find_for_themselves_are_well(programs):
    programs(java="", docker="")
    models = {"encoder": "openai/clip-vit-base-patch32", "scorer": "builtin:demo-loopitr"}
    found = look("--runner=FlinkRunner", "--flink_master=192.0.2.1:8081", SHIPPED, models=models)
    assert [one.check for one in found] == ["flink"]
