"""The root as runs use it: a file is created once, a second time is refused, and its clock is ours."""

import contextlib
import os
import time
import uuid
from typing import Any

import fsspec

from pipelines.doctor.finding import Finding, error, ok, warning
from pipelines.reindex.lock import STALE_S
from schemas.commits import publish_bytes
from schemas.conditional import keeps_conditions
from schemas.errors import ConfigError, InputError
from schemas.layout import Layout
from schemas.stores import is_local as on_this_machine
from schemas.stores import open_store

CLOCK_S = 5.0
"""Apart, at most, for what tells old from new: heartbeats of other machines, the age of files."""


def is_local(url: str) -> bool:
    """Whether a URL is on this machine's file system."""
    return fsspec.utils.get_protocol(url) in ("file", "local")


def look(root: str) -> list[Finding]:
    """Writes a probe, and removes it with every folder that was made for it."""
    url = Layout(root, "doctor").cache("doctor", uuid.uuid4().hex)
    try:
        fs, path = open_store(url)
    except (ConfigError, ImportError, ValueError) as problem:
        return [error("root", f"{root}: {problem}", "pip install 'fastslow[s3]', or [gcs]")]
    absent = _absent_folders(fs, path)
    try:
        begun = time.time()
        publish_bytes(b"probe", url)
        done = time.time()
        written = _written(fs, path)
        fs.rm_file(path)
        findings = [ok("root", f"{root}: can be written"), _conditions(url)]
    except (OSError, InputError) as problem:
        return [error("root", f"{root}: cannot be written ({problem})", "give a --root that this user may write to")]
    finally:
        _remove(fs, path, absent)
    return [*findings, clock(written, begun, done)]


def _conditions(url: str) -> Finding:
    """Whether two runs would notice each other."""
    said = "a second file of the same name is not refused: of two runs neither would notice the other"
    try:
        if keeps_conditions(url):
            return ok("conditional write", "a file that is there is not overwritten unseen")
    except ConfigError as problem:
        said = str(problem)
    remedy = "use a store with conditional writes: a local disk, S3, Google Cloud Storage"
    return error("conditional write", said, remedy)


def clock(written: float | None, begun: float, done: float) -> Finding:
    """The store's clock against ours.

    Args:
      written: time of a file by the store, seconds since 1970; None: it does not say.
      begun, done: by our clock, before and after it was written.
    """
    if written is None:
        return ok("clock", "the store does not say when files were written")
    off = min(written - begun, 0.0) + max(written - done, 0.0)
    if abs(off) <= CLOCK_S:
        return ok("clock", "the store's and ours agree")
    found = f"the store's is {abs(off):,.0f} s {'ahead of' if off > 0 else 'behind'} ours"
    remedy = "let NTP set the clocks of all machines that use this root"
    return error("clock", found, remedy) if abs(off) > STALE_S / 2 else warning("clock", found, remedy)


def _written(fs: Any, path: str) -> float | None:
    try:
        return float(fs.modified(path).timestamp())
    except (NotImplementedError, RuntimeError):
        return None


def _absent_folders(fs: Any, path: str) -> list[str]:
    """Folders above a local path that are not there yet, the deepest first."""
    absent: list[str] = []
    folder = os.path.dirname(path)
    while on_this_machine(fs) and not os.path.lexists(folder):
        absent.append(folder)
        folder = os.path.dirname(folder)
    return absent


def _remove(fs: Any, path: str, absent: list[str]) -> None:
    folder, name = os.path.split(path)
    for probe in (path, f"{folder}/.{name}.lock"):  # the latter is what writers of a local disk take turns by
        with contextlib.suppress(OSError):
            if fs.exists(probe):
                fs.rm_file(probe)
    for made in absent:
        with contextlib.suppress(OSError):  # never made, or somebody else's by now
            os.rmdir(made)
