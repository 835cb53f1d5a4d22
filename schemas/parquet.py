"""The one way tables are written and read here: streamed by row group, published whole, described by digest."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.commits import publish_file, staging
from schemas.digests import digest_file
from schemas.errors import InputError
from schemas.manifests import FileEntry
from schemas.stores import is_object_store, open_store


class TableWriter:
    """Writes a Parquet file batch by batch; memory is bounded by one batch.

    Vector columns are stored plain (no dictionary, no compression): 6 times faster to read than
    the defaults (benchmarks/README.md). Statistics are kept for `key`-like columns only, never for vectors.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        vectors = {field.name for field in schema if pa.types.is_fixed_size_list(field.type)}
        others = [field.name for field in schema if field.name not in vectors]
        flat = [name for name in others if not pa.types.is_nested(schema.field(name).type)]
        compression = {name: "NONE" if name in vectors else "ZSTD" for name in schema.names}
        self.rows = 0
        self._path = path
        self._schema = schema
        self._writer = pq.ParquetWriter(
            path,
            schema,
            use_dictionary=[name for name in flat if pa.types.is_string(schema.field(name).type) and name != "key"],
            compression={_leaf(schema.field(name)): how for name, how in compression.items()},
            write_statistics=flat,
        )

    def write(self, columns: Mapping[str, object]) -> None:
        """Appends one row group.

        Args:
          columns: name -> Arrow array, list, or (for vector columns) numpy array (rows, width).
        """
        batch = pa.record_batch(
            [_array(columns[field.name], field.type) for field in self._schema], schema=self._schema
        )
        self.rows += batch.num_rows
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Writes the footer; without it there is no table."""
        self._writer.close()


def _leaf(field: pa.Field) -> str:
    """Parquet's name of a column's data: nested columns have one leaf below them."""
    return f"{field.name}.list.element" if pa.types.is_nested(field.type) else field.name


def _array(values: object, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray) and pa.types.is_fixed_size_list(kind):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.array(values, type=kind)


@contextmanager
def write_table(url: str, schema: pa.Schema) -> Iterator[TableWriter]:
    """A writer whose file appears at `url` when the block ends well, and never otherwise."""
    with staging() as folder:
        local = folder / "table.parquet"
        writer = TableWriter(local, schema)
        try:
            yield writer
        finally:
            writer.close()
        publish_file(local, url)


def entry(url: str) -> FileEntry:
    """A published Parquet file's name, rows, size and digest, read back from where it lies."""
    fs, path = open_store(url)
    with fs.open(path, "rb") as stream:
        rows = pq.ParquetFile(stream).metadata.num_rows
    return FileEntry(name=url.rsplit("/", 1)[-1], rows=rows, size_bytes=fs.size(path), sha256=digest_file(url))


def read_table(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table, or some of its columns.

    Raises:
      InputError: the file is missing, damaged, or lacks a column.
    """
    fs, path = open_store(url)
    options = {"cache_type": "none"} if columns is not None and is_object_store(fs) else {}
    try:
        with fs.open(path, "rb", **options) as stream:
            return pq.read_table(stream, columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise InputError(f"{url}: not found") from None
    except (pa.ArrowException, KeyError) as error:
        raise InputError(f"{url}: cannot be read as Parquet ({error})") from error


@contextmanager
def open_table(url: str, *, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """A table of which some row groups are to be read; from an object store only their bytes are fetched.

    Args:
      footer: its metadata, where it was read before.

    Raises:
      InputError: the file is missing, damaged, or lacks a column that is asked of it.
    """
    fs, path = open_store(url)
    far = is_object_store(fs)
    try:
        with fs.open(path, "rb", **({"cache_type": "none"} if far else {})) as stream:
            yield pq.ParquetFile(stream, metadata=footer, pre_buffer=far)
    except FileNotFoundError:
        raise InputError(f"{url}: not found") from None
    except (pa.ArrowException, KeyError) as error:
        raise InputError(f"{url}: cannot be read as Parquet ({error})") from error


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """A vector column as a float32 array (rows, width)."""
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return flat.reshape(-1, width).astype(np.float32)
