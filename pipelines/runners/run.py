"""A transform over elements, on whichever runner a job names, to its end: its counters, or why there are none."""

import logging
import re
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import Pipeline
from apache_beam.runners.runner import PipelineResult

from pipelines.runners import dataflow, flink
from pipelines.runners.local import LocalRunner
from pipelines.runners.options import is_local
from schemas.errors import FastslowError
from schemas.jobs import Runner

logger = logging.getLogger(__name__)


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
    pipeline = pipeline_over(elements, transform, counted=counted, runner=runner)
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
    result = None
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except (FastslowError, KeyboardInterrupt, RuntimeError) as error:
        interrupted = isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error)
        if interrupted:
            _cancel(pipeline, result)
        if _raised:
            raise _raised[0] from error  # without Beam's "[while running ...]"
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    except Exception as error:
        dataflow.refuse_unfinished(pipeline, result, error)
        raise
    dataflow.refuse_unfinished(pipeline, result, None)
    return result


def _cancel(pipeline: Pipeline, result: PipelineResult | None) -> None:
    """Takes an interrupted job off its cluster; a second interrupt does not stop that half-way."""
    if isinstance(pipeline.runner, LocalRunner):
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        if not (flink.cancel(pipeline.options) or dataflow.cancel(pipeline)) and result is not None:
            result.cancel()
    except Exception as error:  # noqa: BLE001 - the interrupt goes on, whatever the engine answers
        logger.warning("the job could not be cancelled, look at the engine's own page: %s", error)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
