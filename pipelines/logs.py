"""How logs look: ours at the level asked for, libraries' only when something is wrong; on stderr."""

import logging
import os

from rich.console import Console
from rich.logging import RichHandler

NO_NEWS = (
    "apitools not found",  # Beam, of clouds not asked for
    "--execution_mode_for_batch",  # Beam's Python side, of an option that its job server takes
)

OURS = ("pipelines", "encoders", "schemas")


def configure(level: int) -> None:
    """Sets up logging once per process; captions and query texts are never logged above DEBUG.

    On a terminal lines are coloured and wrapped to its width; in a file or a scheduler each is one plain line.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")
        layout = "%(message)s"
    else:
        handler, layout = logging.StreamHandler(), "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=layout, datefmt="%H:%M:%S", handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    handler.addFilter(lambda record: not any(said in record.getMessage() for said in NO_NEWS))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for every load of a few tensors
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    # Beam logs the traceback of whatever a DoFn raises, and then hands it on: the command says it once, in a sentence.
    # Workers that an engine has dismissed log that their line is dead; that a job server starts is a warning to Beam.
    for name in ("apache_beam.runners.common", "apache_beam.runners.worker", "apache_beam.utils.subprocess_server"):
        logging.getLogger(name).setLevel(logging.DEBUG if level <= logging.DEBUG else logging.CRITICAL)
