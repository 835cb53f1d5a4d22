"""A transform over elements, on whichever runner a job names, to its end: its counters, or why there are none."""

import logging
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions, PipelineOptions
from apache_beam.pipeline import Pipeline
from apache_beam.runners.runner import PipelineResult

from pipelines.runners import dataflow, flink
from pipelines.runners.local import LocalRunner
from pipelines.runners.options import is_local
from schemas.errors import FastslowError
from schemas.jobs import Runner

logger = logging.getLogger(__name__)


LINES = ("wait_until_finish", "run_worker", "read_grpc_client")
"""Beam's threads at the end of a line to an engine."""


def run_over(elements: Sequence[Any], transform: beam.PTransform, *, counted: str, runner: Runner) -> dict[str, int]:
    """Applies a transform to elements and waits until that is done.

    Args:
      transform: leaves its results as committed files; picklable where the runner has several processes.
      counted: namespace of its counters.
      runner: where.

    Returns:
      Its counters by name. A replayed element counts twice, and some engines report none: totals come from manifests.

    Raises:
      FastslowError: as raised by the transform, or a process died.
      KeyboardInterrupt: the user stopped it; a job on a cluster has been cancelled.
      Exception: anything else that went wrong, of its own class in this process, a RuntimeError from elsewhere.
    """
    if runner.processes != 1:
        from pipelines.runners.processes import run_side_by_side

        return run_side_by_side(elements, transform, counted=counted, runner=runner)
    with flink.workers_here(runner.beam_args) as arguments:
        where = replace(runner, beam_args=tuple(arguments))
        pipeline = pipeline_over(elements, transform, counted=counted, runner=where)
        result = run(pipeline)
    if dataflow.only_described(pipeline.options):
        return {}
    counters = result.metrics().query()["counters"]
    return {c.key.metric.name: c.result for c in counters if c.key.metric.namespace == counted and c.result is not None}


def pipeline_over(elements: Sequence[Any], transform: beam.PTransform, *, counted: str, runner: Runner) -> Pipeline:
    """The pipeline of `run_over`, with everything its runner needs, not yet run."""
    arguments = list(runner.beam_args)
    if not is_local(arguments):
        completed = dataflow.complete(flink.complete(arguments))
        arguments = [f"--job_name={job_name(runner.title, counted)}", *completed]
    pipeline = new_pipeline(arguments)
    _ = pipeline | "Elements" >> beam.Create(list(elements)) | type(transform).__name__ >> transform
    return pipeline


def job_name(title: str, stage: str) -> str:
    """A name of its own for every submission: lower case letters, digits and hyphens, as Dataflow wants it.

    >>> job_name("My photos", "embed-shards")[:-8]
    'fastslow-my-photos-embed-shards-'
    """
    plain = re.sub(r"[^a-z0-9]+", "-", f"fastslow-{title}-{stage}".lower())
    return f"{plain.strip('-')}-{secrets.token_hex(4)}"


def new_pipeline(beam_args: Sequence[str]) -> Pipeline:
    """An empty pipeline on the runner the options name, or on `LocalRunner`."""
    options = PipelineOptions(list(beam_args))
    return Pipeline(runner=LocalRunner(), options=options) if is_local(beam_args) else Pipeline(options=options)


_raised: list[BaseException] = []


@contextmanager
def remembering_errors() -> Iterator[None]:
    """Keeps what a DoFn raises, for `run` to raise again: Beam hands on a copy with more words, or only its text."""
    try:
        yield
    except (FastslowError, KeyboardInterrupt) as error:
        _raised.append(error)
        raise


def run(pipeline: Pipeline) -> PipelineResult:
    """Runs a pipeline to its end.

    Raises:
      FastslowError: one of ours that a DoFn of this process raised under `remembering_errors`, as it was; or a job of
        Dataflow failed, or was cancelled there.
      KeyboardInterrupt: the user stopped it (Beam turns that into a RuntimeError).
      Exception: anything else that went wrong, of its own class in this process, a RuntimeError from elsewhere.
    """
    _raised.clear()
    result, submitted = None, _on_flink(pipeline)
    try:
        with _lost_lines_are_no_news():
            result = pipeline.run()
            result.wait_until_finish()
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error)
        if not isinstance(pipeline.runner, LocalRunner):
            _cancel(pipeline, submitted, result, interrupted=interrupted)
        if _raised and isinstance(error, FastslowError | KeyboardInterrupt | RuntimeError):
            raise _raised[0] from error  # without Beam's "[while running ...]"
        if interrupted:
            raise KeyboardInterrupt from error
        dataflow.refuse_unfinished(pipeline, result, error)
        raise
    dataflow.refuse_unfinished(pipeline, result, None)
    return result


@contextmanager
def _lost_lines_are_no_news() -> Iterator[None]:
    """Beam's threads that talk to a job server or a task manager die when that goes first; `run` says what happened."""
    before = threading.excepthook

    def hook(died: threading.ExceptHookArgs) -> None:
        if died.thread is not None and died.thread.name.startswith(LINES):
            logger.debug("%s: %s", died.thread.name, died.exc_value)
        else:
            before(died)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _on_flink(pipeline: Pipeline) -> tuple[str, str] | None:
    """Cluster and name of what is about to be submitted to Flink; Beam rewrites these options as it does so."""
    master = str(pipeline.options.view_as(FlinkRunnerOptions).flink_master)
    if type(pipeline.runner).__name__ != "FlinkRunner" or master in flink.EMBEDDED:
        return None
    return master, str(pipeline.options.view_as(GoogleCloudOptions).job_name)


def _cancel(
    pipeline: Pipeline, submitted: tuple[str, str] | None, result: PipelineResult | None, *, interrupted: bool
) -> None:
    """Takes off its engine a job that was interrupted; off Flink, also one that lost its job server on the way."""
    try:
        if submitted is not None:
            flink.cancel(*submitted)
        elif interrupted and not dataflow.cancel(pipeline) and result is not None:
            result.cancel()
    except Exception as error:  # noqa: BLE001 - what ended the run goes on, whatever the engine answers
        logger.warning("the job could not be cancelled, look at the engine's own page: %s", error)
