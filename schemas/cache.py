"""The folder of this machine where what was fetched or built once is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$FASTSLOW_CACHE`, else `$XDG_CACHE_HOME/fastslow`, else `~/.cache/fastslow`; it may not be there yet."""
    given = os.environ.get("FASTSLOW_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastslow"
