"""The root as runs use it: a file is created once, a second time is refused, and its clock is ours."""

import contextlib
import os
import time
import uuid
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.doctor.finding import Finding, error, ok, warning
from pipelines.reindex.lock import STALE_S
from schemas.commits import commit_json
from schemas.layout import Layout

CLOCK_S = 5.0
"""Apart, at most, for what tells old from new: heartbeats of other machines, the age of files."""


def is_local(url: str) -> bool:
    """Whether a URL is on this machine's file system."""
    return fsspec.utils.get_protocol(url) in ("file", "local")


def look(root: str) -> list[Finding]:
    """Writes a probe, and removes it with every folder that was made for it."""
    url = Layout(root, "doctor").cache("doctor", uuid.uuid4().hex)
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as problem:
        return [error("root", f"{root}: {problem}", "pip install 'fastslow[s3]', or [gcs]")]
    absent = _absent_folders(fs, path)
    try:
        begun = time.time()
        first = commit_json(url, {"probe": 1})
        done = time.time()
        second = commit_json(url, {"probe": 2})
        written = _written(fs, path)
    except OSError as problem:
        return [error("root", f"{root}: cannot be written ({problem})", "give a --root that this user may write to")]
    finally:
        _remove(fs, path, absent)
    findings = [ok("root", f"{root}: can be written")]
    if first and not second:
        findings.append(ok("conditional write", "a file that is there is not overwritten"))
    else:
        findings.append(
            error(
                "conditional write",
                f"{root}: a second file of the same name was not refused: of two runs neither would notice the other",
                "use a store with conditional writes: a local disk, S3 (s3fs 2024.10 or newer), Google Cloud Storage",
            )
        )
    return [*findings, clock(written, begun, done)]


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
    while isinstance(fs, LocalFileSystem) and not os.path.lexists(folder):
        absent.append(folder)
        folder = os.path.dirname(folder)
    return absent


def _remove(fs: Any, path: str, absent: list[str]) -> None:
    with contextlib.suppress(OSError):
        if fs.exists(path):
            fs.rm_file(path)
    for folder in absent:
        with contextlib.suppress(OSError):  # never made, or somebody else's by now
            os.rmdir(folder)
