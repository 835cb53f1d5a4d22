"""The GPU as torch sees it, and why it does not see one that is there."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

from packaging.version import Version

from pipelines.doctor.finding import Finding, ok, warning

ASK_S = 20.0
"""Longest that nvidia-smi may take; after a fault of the driver it can hang."""


class Driver(NamedTuple):
    """What nvidia-smi says.

    Attributes:
      devices: names; none where it fails.
      version: of the driver.
      cuda: the newest CUDA it runs; "" where it does not say.
      problem: why it fails; "" where it does not.
    """

    devices: list[str]
    version: str = ""
    cuda: str = ""
    problem: str = ""


def look(torch: Mapping[str, Any]) -> Finding:
    """What a model will run on.

    Args:
      torch: see `environment.Loaded`.
    """
    driver = _driver()
    if torch["devices"]:
        behind = f", driver {driver.version}" if driver and driver.version else ""
        return ok("gpu", f"{', '.join(torch['devices'])}; torch {torch['version']}, CUDA {torch['cuda']}{behind}")
    if driver is None:
        return ok("gpu", "none, models run on the CPU")
    if driver.problem:
        return warning("gpu", f"nvidia-smi fails: {driver.problem}", "repair the driver; until then the CPU is used")
    there = f"{', '.join(driver.devices)}, driver {driver.version}"
    if torch["cuda"] is None:
        return warning(
            "gpu", f"{there}, but torch {torch['version']} is built for the CPU alone", "install torch for CUDA"
        )
    if driver.cuda and Version(driver.cuda) < Version(torch["cuda"]):
        return warning(
            "gpu",
            f"{there} runs CUDA up to {driver.cuda}, torch {torch['version']} is built for {torch['cuda']}",
            "install a newer driver, or a torch built for this one; until then the CPU is used",
        )
    return warning("gpu", f"{there}, but torch finds none", "is it hidden by CUDA_VISIBLE_DEVICES?")


def _driver() -> Driver | None:
    """None without nvidia-smi."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        asked, page = (
            subprocess.run(words, capture_output=True, text=True, timeout=ASK_S, check=False)
            for words in (query, [command])
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return Driver([], problem=str(problem))
    rows = [line.rpartition(", ") for line in asked.stdout.splitlines() if ", " in line]
    if asked.returncode or not rows:
        lines = (asked.stderr or asked.stdout).split("\n")
        return Driver([], problem=lines[0].strip() or f"exit code {asked.returncode}")
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", page.stdout)
    return Driver([name for name, _, _ in rows], rows[0][2].strip(), cuda[1] if cuda else "")
