"""Item ids: a key becomes a 63-bit integer that FAISS, Parquet and every night agree on."""

import hashlib
from collections.abc import Iterable

from schemas.errors import InputError


def item_id(dataset: str, key: str) -> int:
    """The id of an item: the first 63 bits of SHA-256 over "dataset/key", never negative.

    A function of the name alone, so that an id survives re-encoding, re-sharding and re-indexing.
    With n items the chance of any collision is about n^2 / 2^64 (birthday bound): 5e-8 for a million
    items; `refuse_collisions` looks for it all the same.

    >>> item_id("demo", "scene-000001")
    3270919219062955667
    """
    digest = hashlib.sha256(f"{dataset}/{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def refuse_collisions(items: Iterable[tuple[int, str, str]]) -> None:
    """Checks that no id occurs twice.

    Args:
      items: (item id, key, shard).

    Raises:
      InputError: naming both items; either a key is used twice or two keys collide.
    """
    seen: dict[int, tuple[str, str]] = {}
    for number, key, shard in items:
        if number in seen:
            other_key, other_shard = seen[number]
            reason = "the same key" if key == other_key else f"two keys with the same id {number}"
            raise InputError(
                f"{reason}: {other_key!r} in {other_shard} and {key!r} in {shard}. Keys must be unique in a "
                "dataset; set `key_scope: shard` in the dataset config when they are unique only within a shard"
            )
        seen[number] = (key, shard)
