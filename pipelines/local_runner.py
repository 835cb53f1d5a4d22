"""The Beam runner jobs use when none is named: Beam's own in-process engine, pinned.

Beam's default, `DirectRunner`, first tries to download another engine (Prism), so that a machine with Internet
silently runs something else than one without. This one is always the same, and hands the options to its workers
in every mode, which `FnApiRunner` by itself does not.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.pipeline import Pipeline
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineResult, create_runner

from schemas.errors import ConfigError, FastslowError


class LocalRunner(fn_runner.FnApiRunner):
    """Runs a pipeline in this process, one stage after the other, and returns when it is done."""

    def run_pipeline(self, pipeline: Pipeline, options: PipelineOptions) -> fn_runner.RunnerResult:
        """Runs to the end; the result is final."""
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        self._provision_info = fn_runner.ExtendedProvisionInfo(info)
        return super().run_pipeline(pipeline, options)


def is_local(beam_args: Sequence[str]) -> bool:
    """Whether these Beam options leave the choice of runner to us.

    >>> is_local(["--direct_runner_bundle_repeat=1"]), is_local(["--runner=FlinkRunner"])
    (True, False)
    """
    return not any(arg == "--runner" or arg.startswith("--runner=") for arg in beam_args)


class Understood(NamedTuple):
    """What Beam makes of some options.

    Attributes:
      runner: its class, ours where none is named.
      local: whether it runs everything on this machine.
      values: of all options that Beam knows, by name.
      unknown: options that Beam drops.
      problems: what Beam has against them; none of Dataflow's.
    """

    runner: str
    local: bool
    values: dict[str, Any]
    unknown: list[str]
    problems: list[str]


def understood(beam_args: Sequence[str]) -> Understood:
    """Reads options as a run would, and starts nothing.

    Raises:
      ConfigError: a value does not fit its option, or there is no such runner.
    """
    options = PipelineOptions(list(beam_args))
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # argparse prints, then ends the process
            values = options.get_all_options(retain_unknown_options=True)
    except SystemExit:
        raise ConfigError(f"Beam options: {said.getvalue().strip().rpartition('error: ')[2]}") from None
    known = PipelineOptions([]).get_all_options()
    unknown = [f"--{name}" for name in values if name not in known]
    if is_local(beam_args):
        return Understood(LocalRunner.__name__, True, values, unknown, [])
    try:
        runner = create_runner(values["runner"])
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"--runner={values['runner']}: {error}") from error
    name = type(runner).__name__
    local = isinstance(runner, LocalRunner) or name in StandardOptions.LOCAL_RUNNERS
    # Of Dataflow's, Beam's validator would make a bucket where none is given.
    problems = [] if "Dataflow" in name else PipelineOptionsValidator(options, runner).validate()
    return Understood(name, local, values, unknown, problems)


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
      FastslowError: one of ours that a DoFn of this process raised under `remembering_errors`, as it was.
      KeyboardInterrupt: the user stopped it (Beam turns that into a RuntimeError).
      Exception: anything else that went wrong, of its own class in this process, a RuntimeError from elsewhere.
    """
    _raised.clear()
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except (FastslowError, KeyboardInterrupt, RuntimeError) as error:
        if _raised:
            raise _raised[0] from error  # without Beam's "[while running ...]"
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        raise
    return result
