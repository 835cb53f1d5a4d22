"""How logs look: ours at the level asked for, libraries' only when something is wrong; on stderr."""

import logging

from rich.console import Console
from rich.logging import RichHandler

OURS = ("pipelines", "encoders", "schemas")


def configure(level: int) -> None:
    """Sets up logging once per process; captions and query texts are never logged above DEBUG."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%H:%M:%S")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
