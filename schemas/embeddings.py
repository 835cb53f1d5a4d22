"""The embedding table: one row per item, its vectors beside its name, so that the two can never slip apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from schemas.errors import InputError
from schemas.manifests import EmbeddingManifest
from schemas.parquet import read_table, vectors

VECTOR = "embedding"
"""The finest (or only) level; coarser ones are named `embedding_<width>`."""

NORM_TOLERANCE = 2e-3
"""float16 keeps 11 bits: the norm of a rounded unit vector is within 2^-11 x a small factor of 1."""


def schema(dims: Mapping[str, int], *, encoder: str) -> pa.Schema:
    """The Arrow schema for vector columns of the given widths.

    Args:
      dims: column -> width; must hold `embedding`.
      encoder: fingerprint, kept in the file's metadata.
    """
    columns = [
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("duration_s", pa.float32(), nullable=False),  # 0 for images
        pa.field("frame_times_s", pa.list_(pa.float32()), nullable=False),  # empty for images
        pa.field("content_sha256", pa.string(), nullable=False),
    ]
    levels = [
        pa.field(name, pa.list_(pa.field("element", pa.float16(), nullable=False), width), nullable=False)
        for name, width in dims.items()
    ]
    return pa.schema(columns + levels, metadata={"fastslow.encoder": encoder})


def refuse_bad_vectors(values: np.ndarray, keys: Sequence[str], *, column: str) -> None:
    """Checks that every vector is finite and has L2 norm 1.

    Args:
      values: float (rows, width), before or after the cast to float16.
      keys: one per row, for the message.

    Raises:
      InputError: names the first offender.
    """
    norms = np.linalg.norm(values.astype(np.float32), axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))  # "not <=" catches NaN too
    if bad.size:
        raise InputError(f"{keys[bad[0]]}: column {column}: expected a vector of norm 1, got norm {norms[bad[0]]}")


class Part(NamedTuple):
    """One shard's rows: vectors float32 (rows, width), the rest as an Arrow table."""

    manifest: EmbeddingManifest
    table: pa.Table
    vectors: np.ndarray


def part_url(manifest_url: str, manifest: EmbeddingManifest) -> str:
    """Where a manifest's data file lies: beside it."""
    return f"{manifest_url.rsplit('/', 1)[0]}/{manifest.data.name}"


def read_parts(manifest_urls: Sequence[str], columns: Sequence[str], *, level: str = VECTOR) -> Iterator[Part]:
    """Reads embedded shards one at a time, in the order given.

    Args:
      manifest_urls: from the plan, never from a listing of data files.
      columns: columns to keep in `table`, besides the vectors.

    Raises:
      InputError: a part is missing, or has other rows than its manifest says.
    """
    for url in manifest_urls:
        manifest = EmbeddingManifest.read(url)
        table = read_table(part_url(url, manifest), [*columns, level])
        if table.num_rows != manifest.data.rows:
            raise InputError(
                f"{part_url(url, manifest)}: {table.num_rows} rows, its manifest says {manifest.data.rows}"
            )
        yield Part(manifest, table.select(list(columns)), vectors(table.column(level)))
