"""Files that appear whole or not at all, manifests that are created once, and the one pointer that moves.

Protocol: write to a local temporary file, publish it under its
final name in one step, then create the manifest only if it is absent. Two workers racing on one unit leave
one winner; a kill at any point leaves either nothing that readers see or a finished unit.
"""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import InputError


def exists(url: str) -> bool:
    """Whether a file is there."""
    fs, path = fsspec.core.url_to_fs(url)
    return bool(fs.exists(path))


def publish_file(local: str | Path, url: str) -> None:
    """Makes a finished local file visible at `url`, complete or not at all; replaces what was there.

    Locally: a copy in the target folder, fsync, rename. Remote: one put, which object stores make atomic.
    """
    fs, path = fsspec.core.url_to_fs(url)
    if not isinstance(fs, LocalFileSystem):
        fs.put_file(str(local), path)
        return
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    staged = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        shutil.copyfile(local, staged)
        with open(staged, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(staged, path)
    finally:
        if os.path.exists(staged):
            os.unlink(staged)


def publish_bytes(data: bytes, url: str) -> None:
    """`publish_file` for bytes in memory."""
    with staging() as folder:
        local = folder / "data"
        local.write_bytes(data)
        publish_file(local, url)


@contextmanager
def staging() -> Iterator[Path]:
    """A local folder for half-written files, removed at the end whatever happens."""
    with tempfile.TemporaryDirectory(prefix="fastslow-") as folder:
        yield Path(folder)


def encode_json(value: Any) -> bytes:
    """The bytes of a manifest: sorted keys, two spaces, newline at the end; equal values, equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def commit_json(url: str, value: Any) -> bool:
    """Creates a manifest if it is absent.

    Returns:
      True when this call created it; False when somebody had already done so (theirs stands).
    """
    fs, path = fsspec.core.url_to_fs(url)
    data = encode_json(value)
    if not isinstance(fs, LocalFileSystem):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True
    os.makedirs(os.path.dirname(path), exist_ok=True)
    staged = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(staged, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(staged, path)  # fails when the name is taken: first committer wins
        except FileExistsError:
            return False
        return True
    finally:
        os.unlink(staged)


def read_json(url: str) -> Any:
    """A manifest's value.

    Raises:
      InputError: it is missing or not JSON.
    """
    fs, path = fsspec.core.url_to_fs(url)
    try:
        return json.loads(fs.cat_file(path))
    except FileNotFoundError:
        raise InputError(f"{url}: not found") from None
    except ValueError as error:
        raise InputError(f"{url}: not JSON ({error}); remove it to have it made again") from error
