"""Writes that happen only if nobody else was faster: create if absent, replace and remove if unchanged.

What is read comes with a tag that names this version of it; a write that is given the tag takes place if the file still
is that version. Of any number who try at once exactly one succeeds, and the others are told. On S3 the tag is the ETag
and the condition travels with the request (`If-None-Match`, `If-Match`); on GCS it is the generation
(`ifGenerationMatch`); on a local disk a lock of the kernel, gone with its process, is held while reading and writing.
"""

import errno
import fcntl
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, Protocol

from schemas.digests import digest_bytes, digest_value
from schemas.errors import ConfigError, InputError
from schemas.layout import Layout
from schemas.stores import EXTRAS, is_local, open_store, protocol_of, reaching


class Tagged(NamedTuple):
    """A small file as it was read, and the tag of that version."""

    data: bytes
    tag: str


class Conditional(Protocol):
    """What one kind of store can do; paths are those of its file system."""

    def read(self, path: str) -> Tagged | None:
        """The file and its tag, of one moment; None where there is none."""
        ...

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Writes where `tag` still holds, or with None where there is no file; the new tag, None if refused."""
        ...

    def remove(self, path: str, tag: str) -> bool:
        """Removes the file where `tag` still holds; whether it did."""
        ...

    def identity(self) -> list[str]:
        """What decides whether conditions are kept: the server, the client; empty where they always are."""
        ...


def read(url: str) -> Tagged | None:
    """A small file with its tag; None where there is none.

    Raises:
      InputError: the store cannot be reached, has no such bucket, or refuses.
    """
    store, path = _open(url)
    with reaching(url):
        return store.read(path)


def create(url: str, data: bytes) -> str | None:
    """Writes a small file if there is none.

    Returns:
      The tag of what was written; None when the name was taken.

    Raises:
      OSError: a local disk cannot be written to.
      InputError: the store cannot be reached, has no such bucket, or refuses.
    """
    store, path = _open(url)
    with reaching(url):
        return store.write(path, data, None)


def replace(url: str, data: bytes, *, tag: str) -> str | None:
    """Writes a small file if it still is the version that `tag` names.

    Returns:
      The tag of what was written; None when it was replaced or removed meanwhile.

    Errors as `create`.
    """
    store, path = _open(url)
    with reaching(url):
        return store.write(path, data, tag)


def remove(url: str, *, tag: str) -> bool:
    """Removes a small file if it still is the version that `tag` names; whether this call did.

    Errors as `create`.
    """
    store, path = _open(url)
    with reaching(url):
        return store.remove(path, tag)


def refuse_unconditional(layout: Layout) -> None:
    """Tries the root's store once whether it keeps conditions; what was found is remembered under the root's cache.

    Some that speak S3's language ignore the conditions of a write; two runs would then overwrite each other unseen.

    Raises:
      ConfigError: it ignores them, or is of a kind that has none.
      InputError: it cannot be reached, has no such bucket, or refuses.
    """
    store, _ = _open(layout.root)
    identity = store.identity()
    if not identity:
        return
    memo = layout.cache("conditional-writes", digest_value([layout.root, *identity]))
    if read(memo) is not None:
        return
    if not keeps_conditions(layout.cache("conditional-writes", uuid.uuid4().hex)):
        raise ConfigError(
            f"{layout.root}: this store does not keep the conditions of a write (If-None-Match, If-Match), so two runs "
            "could overwrite each other unseen; expected S3, GCS, or a server that keeps them. Upgrade it, or use a "
            "local folder as --root"
        )
    create(memo, b"{}\n")


def keeps_conditions(url: str) -> bool:
    """Whether writes to a URL that nobody else uses take place when they should, and only then.

    Raises:
      ConfigError: the store is of a kind that has no conditions.
      OSError, InputError: as `create`.
    """
    try:
        first = create(url, b"1") or ""
        kept = create(url, b"2") is None
        kept &= replace(url, b"3", tag=first) is not None
        kept &= replace(url, b"4", tag=first) is None
    except InputError as error:
        if (
            getattr(error.__cause__, "errno", None) != errno.ENOSYS
        ):  # 501: a server that knows no conditions and says so
            raise
        kept = False
    left = read(url)
    if left is None:
        return False
    remove(url, tag=left.tag)
    return kept and left.data == b"3"


def _open(url: str) -> tuple[Conditional, str]:
    fs, path = open_store(url)
    if is_local(fs):
        return _Local(), path
    if protocol_of(fs) == "memory":
        return _Memory(fs), path
    library = EXTRAS.get(protocol_of(fs))
    if library == "s3":
        from schemas.conditional_s3 import S3

        return S3(fs), path
    if library == "gcs":
        from schemas.conditional_gcs import Gcs

        return Gcs(fs), path
    return _Other(fs), path


def versions(*packages: str) -> list[str]:
    """Versions of libraries, for `Conditional.identity`."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(package)
    return found


class _Local:
    """Files of this machine, or of a network disk that knows flock."""

    def read(self, path: str) -> Tagged | None:
        try:
            with open(path, "rb") as stream:
                data = stream.read()
        except FileNotFoundError:
            return None
        return Tagged(data, digest_bytes(data))

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _staged(path, data) as staged:
            if tag is None:
                try:
                    os.link(staged, path)  # fails when the name is taken
                except FileExistsError:
                    return None
            else:
                with _guarded(path):
                    held = self.read(path)
                    if held is None or held.tag != tag:
                        return None
                    os.replace(staged, path)
        return digest_bytes(data)

    def remove(self, path: str, tag: str) -> bool:
        if not os.path.exists(path):
            return False
        with _guarded(path):
            held = self.read(path)
            if held is None or held.tag != tag:
                return False
            os.unlink(path)
        return True

    def identity(self) -> list[str]:
        return []


@contextmanager
def _staged(path: str, data: bytes) -> Iterator[str]:
    """A finished file beside `path`, gone at the end of the block."""
    staged = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(staged, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield staged
    finally:
        if os.path.exists(staged):
            os.unlink(staged)


@contextmanager
def _guarded(path: str) -> Iterator[None]:
    """Between reading and writing `path` nobody else does; the kernel ends it when the process dies."""
    folder, name = os.path.split(path)
    with open(os.path.join(folder, f".{name}.lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class _Other:
    """Any other file system: it can be read."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def read(self, path: str) -> Tagged | None:
        try:
            data = bytes(self._fs.cat_file(path))
        except FileNotFoundError:
            return None
        return Tagged(data, digest_bytes(data))

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:  # noqa: ARG002 - see Conditional
        raise self._unknown()

    def remove(self, path: str, tag: str) -> bool:  # noqa: ARG002 - see Conditional
        raise self._unknown()

    def identity(self) -> list[str]:
        raise self._unknown()

    def _unknown(self) -> ConfigError:
        return ConfigError(
            f"conditional writes are not known of {protocol_of(self._fs)}://; --root may be a folder, s3:// or gs://"
        )


_MEMORY = threading.Lock()


class _Memory(_Other):
    """fsspec's memory://, which is of one process."""

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        with _MEMORY:
            held = self.read(path)
            if (held.tag if held is not None else None) != tag:
                return None
            self._fs.pipe_file(path, data)
        return digest_bytes(data)

    def remove(self, path: str, tag: str) -> bool:
        with _MEMORY:
            held = self.read(path)
            if held is None or held.tag != tag:
                return False
            self._fs.rm_file(path)
        return True

    def identity(self) -> list[str]:
        return []
