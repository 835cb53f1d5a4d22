"""The embedding table: written by row group, read by anything that reads Parquet, refused when a vector is bad."""

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from schemas.embeddings import read_parts, refuse_bad_vectors, schema
from schemas.errors import InputError
from schemas.manifests import Counts, EmbeddingManifest
from schemas.parquet import entry, write_table

DIM = 8


def unit_vectors(rows: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, DIM)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def columns(values: np.ndarray, first: int = 0) -> dict[str, object]:
    rows = len(values)
    return {
        "item_id": list(range(first, first + rows)),
        "key": [f"k{first + i}" for i in range(rows)],
        "shard": ["s.tar"] * rows,
        "position": list(range(rows)),
        "offset": [512] * rows,
        "size": [10] * rows,
        "modality": ["image"] * rows,
        "captions": [["a cat", "eine Katze"]] * rows,
        "metadata": [""] * rows,
        "width": [64] * rows,
        "height": [64] * rows,
        "duration_s": [0.0] * rows,
        "frame_times_s": [[]] * rows,
        "content_sha256": ["00"] * rows,
        "embedding": values,
    }


def write_part(folder, values: np.ndarray) -> str:
    data = f"{folder}/part.parquet"
    with write_table(data, schema({"embedding": DIM}, encoder="e")) as writer:
        half = len(values) // 2
        writer.write(columns(values[:half]))
        writer.write(columns(values[half:], first=half))
    rejects = entry(data).model_copy(update={"name": "none", "rows": 0})
    manifest = EmbeddingManifest(
        dataset="d", shard="s.tar", shard_digest="x", encoder="e", config_digest="c", dims={"embedding": DIM},
        counts=Counts(seen=len(values), embedded=len(values), rejected=0, images=len(values)),
        data=entry(data), rejects=rejects,
    )  # fmt: skip
    manifest.commit(f"{folder}/part.json")
    return f"{folder}/part.json"


def test_vectors_come_back_as_float16_stored_them(tmp_path):
    values = unit_vectors(100)
    [part] = read_parts([write_part(tmp_path, values)], ["item_id", "key"])
    np.testing.assert_array_equal(part.vectors, values.astype(np.float16).astype(np.float32))
    assert part.table.column("item_id").to_pylist() == list(range(100))


def test_pandas_and_duckdb_read_the_same_rows(tmp_path):
    values = unit_vectors(10)
    write_part(tmp_path, values)
    frame = pd.read_parquet(tmp_path / "part.parquet")
    assert frame["captions"][3].tolist() == ["a cat", "eine Katze"]
    np.testing.assert_array_equal(np.stack(frame["embedding"]), values.astype(np.float16))
    key, first = duckdb.sql(
        f"select key, embedding[1]::float from '{tmp_path}/part.parquet' where position = 2"
    ).fetchall()[0]
    assert (key, first) == ("k2", float(np.float16(values[2, 0])))


def test_vector_columns_are_plain_and_uncompressed(tmp_path):
    write_part(tmp_path, unit_vectors(10))
    group = pq.ParquetFile(tmp_path / "part.parquet").metadata.row_group(0)
    by_path = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    vector = by_path["embedding.list.element"]
    assert vector.compression == "UNCOMPRESSED"
    assert "DICTIONARY" not in str(vector.encodings)
    assert not vector.is_stats_set
    assert by_path["key"].is_stats_set
    assert by_path["key"].compression == "ZSTD"


def test_the_same_rows_are_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_part(tmp_path / "a", unit_vectors(10))
    write_part(tmp_path / "b", unit_vectors(10))
    assert (tmp_path / "a/part.parquet").read_bytes() == (tmp_path / "b/part.parquet").read_bytes()


def test_a_block_that_fails_leaves_no_table(tmp_path):
    def fail() -> None:
        with write_table(f"{tmp_path}/t.parquet", schema({"embedding": DIM}, encoder="e")) as writer:
            writer.write(columns(unit_vectors(4)))
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.01])
def test_a_bad_vector_is_refused_with_its_key(bad):
    values = unit_vectors(5)
    values[3] = values[3] * bad
    with pytest.raises(InputError, match="k3: column embedding: expected a vector of norm 1"):
        refuse_bad_vectors(values, [f"k{i}" for i in range(5)], column="embedding")


def test_float16_rounding_is_within_the_tolerance():
    refuse_bad_vectors(unit_vectors(1000).astype(np.float16), ["k"] * 1000, column="embedding")


def test_a_table_with_other_rows_than_its_manifest_says_is_refused(tmp_path):
    url = write_part(tmp_path, unit_vectors(10))
    with write_table(f"{tmp_path}/part.parquet", schema({"embedding": DIM}, encoder="e")) as writer:
        writer.write(columns(unit_vectors(4)))
    with pytest.raises(InputError, match="4 rows, its manifest says 10"):
        list(read_parts([url], ["key"]))
