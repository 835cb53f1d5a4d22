"""What a Flink cluster needs beyond Beam's options: a job server, the cluster's slots, and a way to cancel."""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from apache_beam.options.pipeline_options import FlinkRunnerOptions, JobServerOptions, PipelineOptions, PortableOptions
from apache_beam.utils.subprocess_server import JavaJarServer

from schemas.cache import cache_folder
from schemas.errors import ConfigError

logger = logging.getLogger(__name__)

EMBEDDED = ("[local]", "[auto]")
"""Values of --flink_master that start Flink inside the job server, here."""

ANSWER_S = 10.0
"""Longest wait for the cluster's REST port."""

SHOWN_WITHIN_S = 5.0
"""A job that was submitted a moment ago is listed by then."""

CANCELLED_WITHIN_S = 30.0
"""A job that was cancelled has ended by then."""

ASK_EVERY_S = 0.5

ENDED = ("CANCELED", "FAILED", "FINISHED")


def complete(beam_args: Sequence[str]) -> list[str]:
    """Flink options that were left out: the job server, parallelism as the cluster has slots, blocking exchanges.

    Options of other runners come back as they are.

    Raises:
      ConfigError: FLINK_JOB_SERVER_JAR names no file, or the cluster does not answer.
    """
    arguments = list(beam_args)
    options = PipelineOptions(arguments).view_as(FlinkRunnerOptions)
    if not _is_flink(options):
        return arguments
    if options.flink_job_server_jar is None:
        jar = job_server(options.flink_version)
        if jar is not None:
            arguments.append(f"--flink_job_server_jar={jar}")
            logger.info("job server: %s", jar)
        else:
            logger.info("job server: Beam fetches its own for Flink %s", options.flink_version)
    launcher = options.view_as(JobServerOptions).job_server_java_launcher
    if launcher == "java" and shutil.which("setpriv") and shutil.which("java"):
        arguments.append(f"--job_server_java_launcher={_java_that_ends_with_us()}")
    if options.parallelism == -1 and options.flink_master not in EMBEDDED:
        slots = _get(options.flink_master, "overview")["slots-total"]
        arguments.append(f"--parallelism={max(slots, 1)}")
    if not any(argument.startswith("--execution_mode_for_batch") for argument in arguments):
        arguments.append("--execution_mode_for_batch=BATCH")  # tasks wait for a slot one by one, not for all at once
    return arguments


@contextmanager
def workers_here(beam_args: Sequence[str]) -> Iterator[list[str]]:
    """Options of a Flink cluster with LOOPBACK, with a pool in this process instead: Beam's own mixes up workers.

    Options of other runners, and of other environments, come back as they are.
    """
    arguments = list(beam_args)
    options = PipelineOptions(arguments)
    kind = str(options.view_as(PortableOptions).environment_type).upper()
    if not _is_flink(options) or kind != "LOOPBACK":
        yield arguments
        return
    from pipelines.runners.worker_pool import WorkerPool

    address, server = WorkerPool.start()
    try:
        yield [*arguments, "--environment_type=EXTERNAL", f"--environment_config={address}"]
    finally:
        server.stop(1)


def _is_flink(options: PipelineOptions) -> bool:
    return "FlinkRunner" in str(options.get_all_options()["runner"])


def _java_that_ends_with_us() -> Path:
    """A `java` that the kernel ends with the process that started it: a killed run leaves no job server behind."""
    place = cache_folder() / "flink" / "java"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f"java.{os.getpid()}.tmp")
        fresh.write_text('#!/bin/sh\nexec setpriv --pdeathsig KILL java "$@"\n')
        fresh.chmod(0o755)
        fresh.replace(place)
    return place


def job_server(version: str) -> Path | None:
    """The jar to submit with: one that is given, Beam's own where it was fetched, the one built by deploy/flink.

    Args:
      version: of Flink, as "1.19".

    Returns:
      None: there is none here, Beam fetches its own.

    Raises:
      ConfigError: FLINK_JOB_SERVER_JAR names no file.
    """
    given = os.environ.get("FLINK_JOB_SERVER_JAR")
    if given:
        if not Path(given).is_file():
            raise ConfigError(f"FLINK_JOB_SERVER_JAR={given}: no such file")
        return Path(given)
    name = JavaJarServer.path_to_beam_jar(f"runners:flink:{version}:job-server:shadowJar").rpartition("/")[2]
    places = (Path(JavaJarServer.JAR_CACHE) / name, cache_folder() / "flink" / f"job-server-{version}.jar")
    return next((place for place in places if place.is_file()), None)


def cancel(master: str, name: str) -> None:
    """Cancels a job through its cluster, whether or not the job server is still there; waits until it has ended.

    Raises:
      ConfigError, requests.RequestException: the cluster does not answer.
    """
    began, state = time.monotonic(), None
    while time.monotonic() - began < (SHOWN_WITHIN_S if state is None else CANCELLED_WITHIN_S):
        job = next((job for job in _get(master, "jobs/overview")["jobs"] if job["name"] == name), None)
        state = job["state"] if job is not None else state
        if state in ENDED:
            break
        if job is not None and state != "CANCELLING":
            requests.patch(f"{_url(master)}/jobs/{job['jid']}?mode=cancel", timeout=ANSWER_S).raise_for_status()
        time.sleep(ASK_EVERY_S)
    logger.info("job %s on %s: %s", name, master, state or "never got there")


def _url(master: str) -> str:
    return (master if urlsplit(master).scheme in ("http", "https") else f"http://{master}").rstrip("/")


def _get(master: str, path: str) -> dict[str, Any]:
    try:
        answer = requests.get(f"{_url(master)}/{path}", timeout=ANSWER_S)
        answer.raise_for_status()
        return dict(answer.json())
    except (requests.RequestException, ValueError) as error:
        raise ConfigError(
            f"--flink_master={master} does not answer as Flink does ({type(error).__name__}); start the cluster "
            "(make flink-up), or give the address of its REST port"
        ) from error
