"""Beam's options: what they mean, and whether they leave the choice of runner to us."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import create_runner

from pipelines.runners.local import LocalRunner
from schemas.errors import ConfigError


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
    values: Mapping[str, Any]
    unknown: list[str]
    problems: list[str]

    @property
    def in_process(self) -> bool:
        """Whether the work is done in this very process, which then sees its progress."""
        if self.local and self.runner != "PrismRunner":
            return bool(self.values["direct_running_mode"] != "multi_processing")
        return str(self.values["environment_type"]).upper() == "LOOPBACK"


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
