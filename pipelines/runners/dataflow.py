"""What a Dataflow job needs beyond Beam's options: our package, a way to cancel, and a sentence on how it ended."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, SetupOptions, TestOptions
from apache_beam.pipeline import Pipeline
from apache_beam.runners.runner import PipelineResult, PipelineState

from schemas.errors import FastslowError

logger = logging.getLogger(__name__)

CANCELLABLE = ("JOB_STATE_PENDING", "JOB_STATE_QUEUED", "JOB_STATE_RUNNING")
"""States of a job that holds machines, or will."""


def complete(beam_args: Sequence[str]) -> list[str]:
    """Dataflow options that were left out: the package that is sent to workers, where this is a checkout.

    `--setup_file=`, with nothing, sends none: the image has it. Options of other runners come back as they are.
    """
    arguments = list(beam_args)
    options = PipelineOptions(arguments)
    if not is_dataflow(options):
        return arguments
    given = options.view_as(SetupOptions).setup_file
    package = own_package()
    if given is None and package is not None:
        arguments.append(f"--setup_file={package}")
    elif given == "":  # to Beam that would be a file without a name
        arguments = [argument for argument in arguments if not argument.startswith("--setup_file=")]
    return arguments


def own_package() -> Path | None:
    """The setup.py of this very code, wherever the user stands; None where it was installed without its sources."""
    path = Path(__file__).resolve().parents[2] / "setup.py"
    return path if path.is_file() else None


def is_dataflow(options: PipelineOptions) -> bool:
    """Whether these options name Dataflow's runner."""
    return "DataflowRunner" in str(options.get_all_options(drop_default=True).get("runner", ""))


def only_described(options: PipelineOptions) -> bool:
    """Whether a job is to be written down, as a template or in memory, and not run."""
    return is_dataflow(options) and bool(
        options.view_as(GoogleCloudOptions).template_location or options.view_as(TestOptions).dry_run
    )


def cancel(pipeline: Pipeline) -> bool:
    """Cancels a job by its name: the interrupt may have come between its creation and Google's answer.

    Returns:
      Whether the job is Dataflow's at all.

    Raises:
      google.api_core.exceptions.GoogleAPICallError: Dataflow does not answer, or refuses.
    """
    if not is_dataflow(pipeline.options):
        return False
    client = getattr(pipeline.runner, "dataflow_client", None)
    if client is None:
        return True  # nothing was submitted
    google = pipeline.options.view_as(GoogleCloudOptions)
    request = {"project_id": google.project, "location": google.region, "name": google.job_name}
    for job in client._jobs_client.list_jobs(request):  # Beam's own search by name overlooks jobs that are pending
        if job.name == google.job_name and job.current_state.name in CANCELLABLE:
            client.modify_job_state(job.id, "JOB_STATE_CANCELLED")
            logger.info("job %s (%s) of %s is cancelled", job.name, job.id, google.project)
    return True


def refuse_unfinished(pipeline: Pipeline, result: PipelineResult | None, error: BaseException | None) -> None:
    """Passes silently where a job is done, or is not Dataflow's.

    Args:
      result: None: it was not created, and the error says why.
      error: what waiting for it raised.

    Raises:
      FastslowError: how it ended, the last error that its workers reported, and where its logs are.
    """
    if result is None or not is_dataflow(pipeline.options) or only_described(pipeline.options):
        return
    state = str(result.state)
    if state != PipelineState.DONE and PipelineState.is_terminal(state):
        _fail(pipeline, result, state, error)


def _fail(pipeline: Pipeline, result: Any, state: str, error: BaseException | None) -> NoReturn:
    google = pipeline.options.view_as(GoogleCloudOptions)
    said = _last_line(getattr(pipeline.runner, "last_error_msg", None))
    page = f"https://console.cloud.google.com/dataflow/jobs/{google.region}/{result.job_id()}?project={google.project}"
    raise FastslowError(
        f"Dataflow job {google.job_name} ended as {state}{said}. Logs: {page} . Run the same command again to go on "
        "from what was committed"
    ) from error


def _last_line(message: str | None) -> str:
    """Of a worker's traceback, the line that says what is wrong."""
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""
