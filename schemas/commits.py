"""Files that appear whole or not at all, and manifests that are created once.

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

from schemas import conditional
from schemas.errors import InputError
from schemas.stores import is_local, open_store, reaching


def exists(url: str) -> bool:
    """Whether a file is there, now."""
    fs, path = open_store(url)
    with reaching(url):
        return bool(fs.exists(path))


def publish_file(local: str | Path, url: str) -> None:
    """Makes a finished local file visible at `url`, complete or not at all; replaces what was there.

    Locally: a copy in the target folder, fsync, rename. Remote: one put, or parts that are put together by one request,
    which object stores make atomic.
    """
    fs, path = open_store(url)
    if not is_local(fs):
        with reaching(url):
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
        local = folder / url.rsplit("/", 1)[-1]  # S3 takes the type of the content from the name
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
    return conditional.create(url, encode_json(value)) is not None


def read_json(url: str) -> Any:
    """A manifest's value.

    Raises:
      InputError: it is missing or not JSON, or the store cannot be reached.
    """
    held = conditional.read(url)
    if held is None:
        raise InputError(f"{url}: not found")
    try:
        return json.loads(held.data)
    except ValueError as error:
        raise InputError(f"{url}: not JSON ({error}); remove it to have it made again") from error
