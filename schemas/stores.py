"""Files wherever they lie, a folder or an object store: opened one way everywhere, so that no listing is ever stale.

fsspec keeps listings in the process: asked again, it would not see what somebody else has written or removed since.
Credentials, endpoint and everything else are found by the store's own library (`AWS_*`,
`GOOGLE_APPLICATION_CREDENTIALS`, fsspec's configuration); fastslow has no settings for them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import fsspec
import fsspec.compression
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import ConfigError, FastslowError, InputError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocol -> what to install for it."""

STREAM_BLOCK_BYTES = 16 << 20
"""Read ahead of a stream from an object store: few requests, and little memory for each shard that is open."""

_LISTING = ("http", "https", *EXTRAS)  # protocols whose file systems would remember listings
_LIBRARIES = ("botocore", "aiobotocore", "s3fs", "gcsfs", "google", "aiohttp")


def open_store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; listings are not remembered.

    Raises:
      ConfigError: the library for it is not installed.
    """
    options = {name: {"use_listings_cache": False} for name in _LISTING if f"{name}://" in url}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        protocol = url.partition("://")[0]
        if protocol not in EXTRAS:
            raise ConfigError(f"{url}: {error}") from error
        raise ConfigError(
            f"{url}: the library for {protocol}:// is missing: pip install 'fastslow[{EXTRAS[protocol]}]'"
        ) from error
    return fs, path


def is_local(fs: Any) -> bool:
    """Whether paths are those of this machine."""
    return isinstance(fs, LocalFileSystem)


def is_object_store(fs: Any) -> bool:
    """Whether it is S3, what speaks its language, or GCS."""
    return protocol_of(fs) in EXTRAS


def protocol_of(fs: Any) -> str:
    """Of its URLs: "s3", "gs", "file", ..."""
    return fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]


@contextmanager
def open_stream(url: str, *, compression: str | None = None) -> Iterator[Any]:
    """A file to be read from its beginning.

    Args:
      compression: as fsspec names it; what is read is decompressed.

    Raises:
      FileNotFoundError: it is not there.
      ValueError: an unknown protocol, or a compression that is unknown or whose library is missing.
    """
    fs, path = open_store(url)
    compression = fsspec.core.get_compression(path, compression)
    options = {"block_size": STREAM_BLOCK_BYTES, "cache_type": "readahead"} if is_object_store(fs) else {}
    with fs.open(path, "rb", **options) as raw:
        if compression is None:
            yield raw
        else:
            with fsspec.compression.compr[compression](raw, mode="r") as stream:
                yield stream


def list_files(folder: str) -> dict[str, dict[str, Any]]:
    """All files below a folder, URL -> what the store says of each; empty where there is no such folder."""
    fs, path = open_store(folder)
    start = len(path.rstrip("/"))
    with reaching(folder):
        found = fs.find(path, detail=True)
    return {f"{folder.rstrip('/')}{name[start:]}": facts for name, facts in found.items()}


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Within the block, an object store that cannot be reached, or refuses, is an `InputError` that says what to do.

    That a file is missing, or there already, is raised as it is, and so are errors of a local disk.
    """
    try:
        yield
    except (FastslowError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        if "://" not in url:
            raise
        if "Forbidden" in str(error) or isinstance(error, PermissionError):
            _refuse(
                url,
                "access denied",
                "the credentials must allow to list the bucket, and to read and write objects below this URL",
                error,
            )
        if type(error).__module__.partition(".")[0] in _LIBRARIES or isinstance(error, OSError):
            _refuse(url, "cannot be reached", "are credentials and endpoint those of this store?", error)
        raise


def _refuse(url: str, what: str, hint: str, error: Exception) -> NoReturn:
    said = f"{type(error).__name__}: {error}".rstrip(". ")
    raise InputError(f"{url}: {what} ({said}); {hint}") from error
