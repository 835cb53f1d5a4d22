"""Names made from content: SHA-256 of files and of plain values, so that the same input has the same name."""

import hashlib
import json
from typing import Any

from schemas.stores import open_stream

CHUNK_BYTES = 1 << 20


def digest_bytes(data: bytes) -> str:
    """SHA-256 of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_value(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of keys, 64 hex digits.

    >>> digest_value({"a": 1, "b": 2}) == digest_value({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return digest_bytes(text.encode())


def digest_file(url: str) -> str:
    """SHA-256 of a file's content at any fsspec URL, read in 1 MiB pieces, 64 hex digits."""
    total = hashlib.sha256()
    with open_stream(url) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def short(digest: str) -> str:
    """The first 16 hex digits (64 bits): what file names carry; manifests hold the whole."""
    return digest[:16]
