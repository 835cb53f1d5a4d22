"""One refused sample and the table of them; together with the embedded rows they account for every sample."""

from dataclasses import asdict, dataclass
from typing import Literal

import pyarrow as pa

Stage = Literal["read", "decode", "encode", "rerank"]

MESSAGE_LIMIT = 500
"""Longest message kept, in characters: untrusted files can put megabytes into an error."""

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Reject:
    """A sample that did not become a row, and why.

    Attributes:
      key: the sample's key as far as it is known ("" when a shard breaks between samples).
      shard: file name of the shard.
      position: sample number in the shard, or -1 when the reject is about the shard itself.
      offset: byte offset in the shard where the trouble begins.
      size: bytes of the member concerned (0 when unknown).
      stage: which step refused it.
      error: class of the error, for counting.
      message: one sentence for people.
    """

    key: str
    shard: str
    position: int
    offset: int
    size: int
    stage: Stage
    error: str
    message: str

    def __post_init__(self) -> None:
        """Cut over-long texts and replace what UTF-8 cannot carry."""
        for name in ("key", "shard", "error", "message"):
            text = getattr(self, name).encode("utf-8", "replace").decode("utf-8")
            object.__setattr__(self, name, text[:MESSAGE_LIMIT])


def to_table(rejects: list[Reject]) -> pa.Table:
    """The rejects as an Arrow table, in the order given."""
    return pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=SCHEMA)
