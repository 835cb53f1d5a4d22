"""The whole index stage: once, again, interrupted, refused; and readers other than ours."""

import subprocess
import sys
from pathlib import Path

import duckdb
import faiss
import numpy as np
import pandas as pd
import pytest

from pipelines.index import job, training
from pipelines.index.job import run
from schemas.commits import encode_json
from schemas.errors import InputError
from schemas.manifests import EmbeddingManifest, IndexManifest


def contents(url):
    folder = Path(url).parent
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timings.json"}


def test_the_auto_key_builds_a_small_set_exactly(make):
    world = make(key="auto")
    manifest = IndexManifest.read(run(world.job, world.parts, world.queries_url))
    assert (manifest.key, manifest.recall, manifest.rows) == ("IVF1,Flat", 1.0, 600)


def test_killed_between_data_and_manifest_the_next_run_leaves_the_same_bytes(world, tmp_path, monkeypatch, make):
    def killed(self, url):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(IndexManifest, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(world.job, world.parts, world.queries_url)
    folder = next(Path(world.job.layout.root).glob("indexes/toy/*"))
    half = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timings.json"}
    assert set(half) == {"index.faiss", "ids.npy", "truth.npz", "tuning.json"}
    url = run(world.job, world.parts[::-1], world.queries_url)
    whole = contents(url)
    assert whole.pop("manifest.json") == encode_json(IndexManifest.read(url).model_dump(mode="json"))
    assert whole == half


def test_a_rerun_builds_nothing(world, monkeypatch):
    url = run(world.job, world.parts, world.queries_url)
    before = contents(url)

    def fail(*args, **kwargs):
        raise AssertionError("built again")

    monkeypatch.setattr(job._Making, "make", fail)
    assert run(world.job, world.parts[::-1], world.queries_url) == url
    assert contents(url) == before


def test_a_rerun_does_not_import_faiss(world):
    run(world.job, world.parts, world.queries_url)
    code = f"""
import sys
from pipelines.index.job import run
from schemas.configs import DatasetConfig, EncoderConfig
from schemas.jobs import Job
from schemas.layout import Layout
config = DatasetConfig.model_validate_json('''{world.job.dataset.model_dump_json()}''')
job = Job(config, EncoderConfig(path="toy"), None, Layout({world.job.layout.root!r}, "toy"))
run(job, {world.parts!r}, {world.queries_url!r})
print([m for m in ("faiss", "autofaiss", "torch") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bad_vectors_are_refused_before_any_training(world, part_writer, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("trained on bad vectors")

    monkeypatch.setattr(training, "train", fail)
    bad = np.eye(16, dtype=np.float32)
    bad[5] *= 2
    parts = [*world.parts, part_writer(world.job.layout, "bad", bad)]
    with pytest.raises(InputError, match="bad-5: column embedding"):
        run(world.job, parts, world.queries_url)
    assert not Path(world.job.layout.root, "indexes").exists()


def test_pandas_duckdb_and_autofaiss_read_the_embeddings(world, tmp_path):
    from embedding_reader import EmbeddingReader

    data = Path(world.parts[2]).with_name(EmbeddingManifest.read(world.parts[2]).data.name)
    expected = world.vectors[300:]
    frame = pd.read_parquet(data)
    np.testing.assert_array_equal(np.stack(frame["embedding"]).astype(np.float32), expected)
    ((count,),) = duckdb.sql(f"select count(*) from '{data}' where item_id >= 0").fetchall()
    assert count == 300
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "part.parquet").write_bytes(data.read_bytes())
    reader = EmbeddingReader(
        str(tmp_path / "only"), file_format="parquet", embedding_column="embedding", meta_columns=["item_id"]
    )
    batches = list(reader(batch_size=1000, show_progress=False))
    np.testing.assert_array_equal(np.concatenate([b[0] for b in batches]), expected)


def test_the_answer_is_known_where_the_neighbours_are_known(make):
    world = make(rows=1200, key="auto")
    url = run(world.job, world.parts, world.queries_url)
    index = faiss.read_index(url.replace("manifest.json", "index.faiss"))
    faiss.ParameterSpace().set_index_parameters(index, IndexManifest.read(url).parameters)
    _, found = index.search(world.vectors, 1)
    assert (found[:, 0] == world.ids).mean() > 0.99
