"""Manifests and container file for Flink: keys the API knows, names that agree, and commands that our parser takes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
FLINK = REPO / "deploy" / "flink"


def read(name: str) -> dict:
    return yaml.safe_load((FLINK / name).read_text())


def flat(value: dict, prefix: str = "") -> dict[str, str]:
    """Nested keys as Flink's flat ones."""
    found: dict[str, str] = {}
    for key, one in value.items():
        found |= flat(one, f"{prefix}{key}.") if isinstance(one, dict) else {f"{prefix}{key}": str(one)}
    return found


def containers(name: str) -> dict[str, dict]:
    spec = read(name)["spec"]
    pod = spec["taskManager"]["podTemplate"]["spec"] if name == "session.yaml" else spec["template"]["spec"]
    return {container["name"]: container for container in pod["containers"]}


def test_kubernetes_and_one_machine_are_configured_alike():
    cluster, session = flat(read("config.yaml")), read("session.yaml")["spec"]["flinkConfiguration"]
    alike = [
        key for key in cluster if key.startswith(("heartbeat.", "restart-strategy.", "taskmanager.memory.network."))
    ]
    assert len(alike) == 9
    assert {key: session[key] for key in alike} == {key: cluster[key] for key in alike}
    assert all(isinstance(value, str) for value in session.values())


def test_flink_is_one_version_everywhere():
    script = (FLINK / "cluster.sh").read_text()
    minor = re.search(r"FLINK_VERSION=(\d+\.\d+)\.", script)[1]
    assert read("session.yaml")["spec"]["image"].startswith(f"flink:{minor}")
    assert read("session.yaml")["spec"]["flinkVersion"] == f"v{minor.replace('.', '_')}"
    assert f"<flink.version>{minor}<" in (FLINK / "job-server" / "pom.xml").read_text()
    for preset in ("flink", "flink-workers"):
        options = yaml.safe_load((REPO / "configs" / "runners" / f"{preset}.yaml").read_text())["options"]
        assert options["flink_version"] == minor


def test_a_task_manager_finds_the_pool_of_its_own_pod():
    preset = yaml.safe_load((REPO / "configs" / "runners" / "flink-workers.yaml").read_text())["options"]
    host, port = preset["environment_config"].split(":")
    assert host == "localhost"
    assert int(port) == containers("session.yaml")["workers"]["ports"][0]["containerPort"]
    image = (FLINK / "Dockerfile").read_text()
    assert f"--port={port}" in image
    assert f"EXPOSE {port}" in image


def test_all_that_the_container_copies_is_there():
    image = (FLINK / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", image, re.MULTILINE) for name in line.split()]
    assert "requirements.txt" in copied
    assert all((REPO / name).exists() for name in copied)
    for room in ("schemas", "encoders", "pipelines", "configs"):
        assert room in copied


def test_the_job_is_one_that_the_api_knows_and_runs_our_image():
    client = pytest.importorskip("kubernetes.client", reason="kubernetes, the API's own models, is not installed")
    document = read("reindex-job.yaml")
    with client.ApiClient() as api:
        assert api.sanitize_for_serialization(client.V1Job.from_dict(document)) == document
    assert containers("reindex-job.yaml")["reindex"]["image"] == containers("session.yaml")["workers"]["image"]


def test_the_job_names_its_session_and_our_options():
    arguments = containers("reindex-job.yaml")["reindex"]["args"]
    assert f"--flink_master={read('session.yaml')['metadata']['name']}-rest:8081" in arguments
    code = (
        "import sys; from pipelines.jobs import resolve_runner; from pipelines.runners.options import understood\n"
        "found = understood(resolve_runner('flink-workers', sys.argv[1:]).beam_args)\n"
        "print(found.runner, found.unknown)"
    )
    beam = arguments[arguments.index("--") + 1 :]
    done = subprocess.run([sys.executable, "-c", code, *beam], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "FlinkRunner []"
    assert "--runner=flink-workers" in arguments
