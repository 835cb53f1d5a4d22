"""Beam's options: against each other, against this machine, and against what the workers must reach."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from pipelines.doctor import dataflow
from pipelines.doctor.finding import Finding, error, ok, warning
from pipelines.doctor.store import is_local
from schemas.errors import ConfigError
from schemas.jobs import Runner

if TYPE_CHECKING:  # Beam is slow to load
    from pipelines.runners.options import Understood

ANSWER_S = 5.0
"""Longest wait for a cluster, a port or the Docker daemon."""

EMBEDDED = ("[local]", "[auto]")
"""Values of --flink_master that start Flink inside the job server, here."""

PORTABLE = ("FlinkRunner", "PortableRunner", "SparkRunner")
"""Runners whose workers run our code in an environment of their own."""

ENVIRONMENTS = ("DOCKER", "PROCESS", "EXTERNAL", "LOOPBACK")

NO_DOCKER = (
    "--environment_type=EXTERNAL --environment_config=HOST:PORT with a worker pool beside each task manager; or, all "
    "on this machine, --environment_type=LOOPBACK"
)


def look(
    where: Runner, *, root: str, shards: Sequence[str] = (), models: Mapping[str, str] | None = None
) -> list[Finding]:
    """What speaks against running with these options; connects to a cluster that they name, and submits nothing.

    Args:
      where: the runner with its options.
      root, shards: what workers write to and read.
      models: "encoder" or "scorer" -> path of the config; workers load them.
    """
    if not where.beam_args:
        how = "this process" if where.processes == 1 else f"processes of this machine: {where.processes}"
        return [ok("runner", f"Beam's own, in {how}")]
    from pipelines.runners.options import understood

    try:
        asked = understood(where.beam_args)
    except ConfigError as problem:
        return [error("runner", str(problem))]
    found = [error("runner", problem) for problem in asked.problems]
    if asked.unknown:
        names = ", ".join(asked.unknown)
        found.append(warning("runner", f"Beam knows no {names} and drops it", "is it misspelt?"))
    found += _local(asked) if asked.local else _remote(asked)
    found += dataflow.accelerators(asked)
    if not asked.local and not where.shared_folders and not _workers_here(asked):
        found += _reach(asked, root, shards, models or {})
    return found or [ok("runner", asked.runner)]


def _local(asked: "Understood") -> Iterator[Finding]:
    workers, usable = asked.values["direct_num_workers"], len(os.sched_getaffinity(0))
    if workers > usable:
        yield warning(
            "runner",
            f"--direct_num_workers={workers} on {usable} cores",
            "leave it out: one worker already uses every core",
        )
    if asked.values["direct_running_mode"] == "multi_processing":
        yield warning(
            "runner",
            "--direct_running_mode=multi_processing: each process loads the model, and if one is killed the run hangs",
            "leave it out",
        )
    if asked.runner == "SwitchingDirectRunner":
        yield warning("runner", f"{asked.runner} first tries to download another engine", "leave --runner out")
    if asked.runner == "PrismRunner" and not asked.values["prism_location"]:
        yield warning("runner", "PrismRunner downloads its engine", "--prism_location=FILE, a binary of yours")


def _remote(asked: "Understood") -> Iterator[Finding]:
    if "Dataflow" in asked.runner:
        yield from dataflow.look(asked)
        return
    if asked.runner == "FlinkRunner":
        yield from _flink(asked)
    elif asked.runner == "PortableRunner" and asked.values["job_endpoint"]:
        endpoint = asked.values["job_endpoint"]
        if not _connects(endpoint):
            yield error("runner", f"--job_endpoint={endpoint} does not answer", "start the job server first")
    if asked.runner in PORTABLE:
        yield from _environment(asked)
        yield from _shipped(asked, needed=_environment_type(asked) != "LOOPBACK")


def _flink(asked: "Understood") -> Iterator[Finding]:
    master, launcher = str(asked.values["flink_master"]), str(asked.values["job_server_java_launcher"])
    uber = asked.values["flink_submit_uber_jar"] and master not in EMBEDDED
    if not uber and shutil.which(launcher) is None:
        yield error(
            "flink", f"{launcher}: not found, the job server needs it", "install Java 11 or 17, or give its path"
        )
    if master in EMBEDDED:
        return
    url = master if "://" in master else f"http://{master}"
    try:
        answer = requests.get(f"{url.rstrip('/')}/overview", timeout=ANSWER_S)
        answer.raise_for_status()
        overview = dict(answer.json())
    except (requests.RequestException, ValueError) as problem:
        reason = type(problem).__name__
        yield error(
            "flink",
            f"--flink_master={master} does not answer as Flink does ({reason})",
            "start the cluster, or give the address of its REST port, 8081 by default",
        )
        return
    version, slots = str(overview.get("flink-version", "")), overview.get("slots-total", 0)
    wanted = asked.values["flink_version"]
    if not uber and not version.startswith(f"{wanted}."):
        yield error(
            "flink", f"{master} runs Flink {version}, --flink_version is {wanted}", "give the cluster's version"
        )
    if not slots:
        yield error("flink", f"{master} has no task slot", "start a task manager")


def _environment_type(asked: "Understood") -> str:
    """How workers run our code, with Beam's default."""
    named = asked.values["environment_type"]
    if named:
        return str(named).upper()
    return "LOOPBACK" if asked.runner == "FlinkRunner" and asked.values["flink_master"] in EMBEDDED else "DOCKER"


def _environment(asked: "Understood") -> Iterator[Finding]:
    kind = _environment_type(asked)
    if kind not in ENVIRONMENTS and not kind.startswith("BEAM:ENV:"):
        yield error("workers", f"--environment_type={kind}, expected one of {', '.join(ENVIRONMENTS)}")
    if kind == "DOCKER":
        problem = _docker()
        if problem and _workers_here(asked):
            yield error("workers", f"--environment_type=DOCKER (the default): {problem}", NO_DOCKER)
        elif problem:
            yield warning("workers", f"--environment_type=DOCKER (the default), and here {problem}", NO_DOCKER)
    address = asked.values["environment_config"]
    if kind == "EXTERNAL" and address and _workers_here(asked) and not _connects(address):
        pool = f"python -m pipelines.runners.worker_pool --port={address.rpartition(':')[2]}"
        yield error("workers", f"--environment_config={address}: no worker pool answers", pool)


def _docker() -> str | None:
    """Why Docker cannot be used here; None where it can."""
    command = shutil.which("docker")
    if command is None:
        return "docker is not on the PATH"
    try:
        done = subprocess.run([command, "info"], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"docker does not answer ({type(problem).__name__})"
    lines = done.stderr.strip().splitlines()
    return f"docker has no daemon ({lines[-1] if lines else done.returncode})" if done.returncode else None


def _shipped(asked: "Understood", *, needed: bool) -> Iterator[Finding]:
    """Workers need fastslow, by an image or by a package that is sent along."""
    package = asked.values["setup_file"]
    if package and not Path(package).is_file():
        yield error("workers", f"--setup_file={package}: no such file", "run from fastslow's folder: ./setup.py")
    ways = ("setup_file", "sdk_container_image", "extra_packages", "environment_config", "environment_options")
    if needed and not any(asked.values[name] for name in ways):
        yield warning(
            "workers",
            "nothing says where they get fastslow from",
            "--setup_file=./setup.py, or --sdk_container_image=... that has it",
        )


def _workers_here(asked: "Understood") -> bool:
    """Whether workers run on this machine, as far as the options say."""
    if "Dataflow" in asked.runner:
        return False
    if asked.local or _environment_type(asked) == "LOOPBACK":
        return True
    if asked.runner == "FlinkRunner":
        return asked.values["flink_master"] in EMBEDDED or _is_this_machine(str(asked.values["flink_master"]))
    return asked.runner == "PortableRunner" and _is_this_machine(str(asked.values["job_endpoint"]))


def _reach(asked: "Understood", root: str, shards: Sequence[str], models: Mapping[str, str]) -> Iterator[Finding]:
    local = [f"--root {root}"] if is_local(root) else []
    local += [f"shard {shard}" for shard in shards if is_local(shard)][:1]
    folders = [f"{side} {path}" for side, path in models.items() if Path(path).expanduser().is_dir()]
    for what in [*local, *folders]:
        found = f"{what} is on this machine, workers of {asked.runner} are elsewhere"
        way_out = (
            "a model of the hub, or one shipped with fastslow" if what in folders else "a bucket: gs://BUCKET/FOLDER"
        )
        if "Dataflow" not in asked.runner:
            elsewhere = way_out if what in folders else "an object store"
            way_out = (
                f"{elsewhere}; or, if it is mounted in the same place on all of them, shared_folders: true in a "
                "runner's YAML"
            )
        yield error("reach", found, way_out)


def _connects(address: str) -> bool:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def _is_this_machine(address: str) -> bool:
    name = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    return name in ("localhost", "::1", socket.gethostname()) or name.startswith("127.")
