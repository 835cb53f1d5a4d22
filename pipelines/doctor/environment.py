"""Python and packages: versions as fastslow asks for, and what a stage needs loads together in a fresh process."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipelines.doctor.finding import Finding, error, ok, warning

TOGETHER = {
    "embed, rerank": ("apache_beam", "pyarrow.parquet", "transformers", "torch"),
    "index": ("apache_beam", "pyarrow.parquet", "autofaiss", "faiss"),
}
"""Processes of a run and what each loads; torch and faiss never meet."""

LOAD_S = 180.0
"""Longest a process may take to load: a cold disk needs a minute for torch."""

INSTALL = "make, or pip install -r requirements.txt"

_LOAD = """
import importlib, json, sys
for name in sys.argv[1:]:
    print(name, flush=True)
    importlib.import_module(name)
facts = {}
if "torch" in sys.modules:
    import torch
    there = torch.cuda.is_available()
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if there else []
    facts = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices}
print(json.dumps(facts))
"""


class Loaded(NamedTuple):
    """Whether modules load, and of torch its `version`, the `cuda` it was built for (or None) and its `devices`."""

    finding: Finding
    torch: dict[str, Any] | None


def python(distribution: str = "fastslow") -> Finding:
    """This Python against the one that an installed distribution asks for."""
    have = ".".join(map(str, sys.version_info[:3]))
    try:
        wanted = str(metadata.metadata(distribution).json.get("requires_python", ""))
    except metadata.PackageNotFoundError:
        return warning("python", f"{have}; {distribution} is not installed, so what it needs is not known", INSTALL)
    if not SpecifierSet(wanted).contains(have, prereleases=True):
        return error("python", f"{have}, expected {wanted}", "make PYTHON=/path/to/python3.11")
    return ok("python", have)


def packages(distribution: str = "fastslow") -> Finding:
    """Installed versions against those that an installed distribution asks for."""
    try:
        asked = [Requirement(text) for text in metadata.requires(distribution) or ()]
    except metadata.PackageNotFoundError:
        return warning("packages", f"{distribution} is not installed, so what it needs is not known", INSTALL)
    asked = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [(one, problem) for one in asked if (problem := _problem(one))]
    if wrong:
        wanted = " ".join(shlex.quote(str(one)) for one, _ in wrong)
        return error("packages", "; ".join(problem for _, problem in wrong), f"make, or pip install {wanted}")
    return ok("packages", f"{len(asked)} as asked for")


def _problem(asked: Requirement) -> str | None:
    try:
        have = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        return f"{asked.name} is not installed"
    if not asked.specifier.contains(have, prereleases=True):
        return f"{asked.name} is {have}, expected {asked.specifier}"
    return None


def compiled(module: str = "torch") -> Finding:
    """Whether a large module's bytecode is there, or will be after the first process that loads it."""
    spec = find_spec(module)
    source = Path(spec.origin) if spec is not None and spec.origin else None
    if source is None or Path(cache_from_source(str(source))).is_file():
        return ok("compiled", "bytecode of packages is there")
    remedy = f"python -m compileall -q {shlex.quote(str(source.parent.parent))}"
    if sys.dont_write_bytecode:
        found = (
            "PYTHONDONTWRITEBYTECODE: every process compiles its packages again, which takes longer than loading them"
        )
        return warning("compiled", found, f"unset it, or {remedy}")
    if not os.access(source.parent, os.W_OK):
        return warning("compiled", f"{source.parent} cannot be written: every process compiles it again", remedy)
    return ok("compiled", "bytecode of packages is written as they are first loaded")


def loaded(stage: str, modules: Sequence[str]) -> Loaded:
    """Loads modules in a fresh process, in this order.

    Args:
      stage: what they are needed for.
    """
    check = f"loads: {stage}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, *modules], capture_output=True, text=True, timeout=LOAD_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Loaded(error(check, f"{', '.join(modules)}: not loaded after {LOAD_S:.0f} s", INSTALL), None)
    said = done.stdout.splitlines()
    if done.returncode:
        died = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), died)
        at = said[-1] if said else "Python"
        return Loaded(error(check, f"{at} does not load: {reason}", INSTALL), None)
    facts: dict[str, Any] = json.loads(said[-1])
    names = ", ".join(name.partition(".")[0] for name in modules)
    return Loaded(ok(check, f"{names} load in one process"), facts or None)
