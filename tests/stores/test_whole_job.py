"""The whole job on object stores: the same data files, byte for byte, as in a folder; and the nights that follow."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from encoders import registry
from pipelines.reindex import history, publish
from pipelines.reindex import job as reindex
from pipelines.reindex.gc import collect
from pipelines.runners import apart
from schemas.commits import exists, publish_bytes, read_json
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import Generation, IndexManifest
from schemas.stores import list_files, open_store

REPO = Path(__file__).resolve().parent.parent.parent
DATA = ("shards", "embeddings", "queries", "trained", "indexes", "candidates", "scores", "rankings")
SMALL = [
    "--set",
    "prepare.images=48",
    "--set",
    "prepare.videos=8",
    "--set",
    "prepare.images_per_shard=24",
    "--set",
    "rerank.depth=4",
]


@pytest.fixture(params=["s3", pytest.param("gcs", marks=pytest.mark.slow)])
def remote(request) -> str:
    """A root in each object store; one of them every time, both when there is time."""
    return request.getfixturevalue(request.param)


def data_files(root: str) -> dict[str, str]:
    """Path below the root -> digest, of every file that holds data: all but memos, times, reports and generations."""
    found = {}
    for kind in DATA:
        for url in list_files(f"{root}/{kind}"):
            if not url.endswith("/timings.json"):
                fs, path = open_store(url)
                found[url[len(root) + 1 :]] = hashlib.sha256(fs.cat_file(path)).hexdigest()
    return found


@pytest.fixture
def colours(monkeypatch):
    """The coloured world of the rerank tests; stages run in this process, where its model is known."""
    with warnings.catch_warnings():
        # SWIG's modules warn while they load; with warnings as errors that crashes the interpreter.
        warnings.simplefilter("ignore")
        import autofaiss  # noqa: F401
        import faiss  # noqa: F401

    path = REPO / "tests" / "pipelines" / "rerank" / "colour_world.py"
    spec = importlib.util.spec_from_file_location("fastslow_colour_world", path)
    module = sys.modules.get(spec.name) or importlib.util.module_from_spec(spec)
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    entry = registry.Entry(dual=lambda: module.ColourModel, scorer=lambda: module.ColourModel)
    monkeypatch.setitem(registry.MODEL_TYPES, "test-colour", entry)
    monkeypatch.setattr(reindex, "run_apart", lambda function, *arguments: function(*arguments))
    return module


@pytest.fixture
def job(colours, tmp_path, monkeypatch) -> Job:
    """Sixty pictures in three shards, in a folder; the model as the config names it, for reports and searches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = colours.make_world(tmp_path / "world", items=60, depth=10, index={"key": "IVF4,Flat"}).job
    config = tmp_path / "colour.yaml"
    config.write_text(f"path: {made.encoder.path}\ndtype: float32\n")
    dataset = made.dataset.model_copy(update={"encoder": str(config), "scorer": str(config)})
    return replace(made, dataset=dataset, layout=Layout(str(tmp_path / "local"), "colours"))


def test_a_root_in_a_store_holds_what_a_folder_would(job, remote, colours):
    from pipelines.search import open_generation

    reindex.run(job)
    there = replace(job, layout=Layout(remote, "colours"))
    assert reindex.run(there).published == 1
    found = data_files(remote)
    assert {name.split("/")[0] for name in found} == set(DATA) - {"shards"}
    assert found == data_files(job.layout.root)
    again = reindex.run(there)
    assert (again.published, again.seconds) == (None, {})
    assert exists(there.layout.report(1))
    assert not exists(there.layout.lock())
    answers = open_generation(there.layout).answer("colour 40c060", k=5)
    assert answers == open_generation(job.layout).answer("colour 40c060", k=5)


@pytest.mark.slow
def test_nights_of_changes_rollback_and_gc(job, remote, colours, tmp_path):
    from pipelines.batch_search import run as batch_search
    from pipelines.search import open_generation

    shards = []
    for path in map(Path, job.dataset.shards):  # the shards are in the store as well
        shards.append(f"{remote}/inputs/{path.name}")
        publish_bytes(path.read_bytes(), shards[-1])
    append = job.dataset.index.append.model_copy(
        update={"max_unmerged": 1.0, "max_changed": 1.0, "max_error_ratio": 9.0}
    )
    index = job.dataset.index.model_copy(update={"append": append})
    dataset = job.dataset.model_copy(update={"shards": (f"{remote}/inputs/colours-*.tar",), "index": index})
    job = replace(job, dataset=dataset, layout=Layout(remote, "colours"))
    assert reindex.run(job).published == 1
    assert reindex.run(job).published is None
    first = open_generation(job.layout).answer("colour 40c060", k=5)

    colours.write_shard(tmp_path / "more.tar", [("new.jpg", colours.picture("40c060")), ("new.txt", b"colour 40c060")])
    publish_bytes((tmp_path / "more.tar").read_bytes(), f"{remote}/inputs/colours-9.tar")
    night = reindex.run(job)
    assert (night.published, night.counts.embedded) == (2, 61)
    built = IndexManifest.read(f"{remote}/{Generation.read(job.layout.generation(2)).index}")
    assert [segment.lists.name.startswith("../") for segment in built.segments] == [True, False]
    assert open_generation(job.layout).answer("colour 40c060", k=1)[0].key == "new"
    assert publish.numbers(job.layout) == [1, 2]
    (tmp_path / "log.tsv").write_text("query_id\ttext\nq\tcolour 40c060\n")
    assert batch_search(job.layout, str(tmp_path / "log.tsv"), f"{remote}/answers.parquet", k=3).rows == 3

    assert history.rollback(job.layout) == 1
    assert open_generation(job.layout).answer("colour 40c060", k=5) == first
    assert history.rollback(job.layout, 2) == 2
    publish_bytes(b"litter", f"{remote}/indexes/colours/0123456789abcdef/index.faiss")
    assert collect(job.layout, 1).removed == ()  # young
    done = collect(job.layout, 1, least_age_s=0)
    assert f"{remote}/indexes/colours/0123456789abcdef/index.faiss" in done.removed
    assert done.kept == (1, 2)
    assert collect(job.layout, 1, least_age_s=0).removed == ()
    assert open_generation(job.layout).answer("colour 40c060", k=1)[0].key == "new"
    assert history.rollback(job.layout) == 1


def test_processes_that_are_started_reach_the_store(remote):
    """The file system of this process has run threads before; a fork would copy them half."""
    publish_bytes(b"here", f"{remote}/here")
    apart.run_apart(publish_bytes, b"there", f"{remote}/there")
    fs, path = open_store(f"{remote}/there")
    assert fs.cat_file(path) == b"there"


def fastslow(*arguments: str, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(REPO), "COLUMNS": "200", "XDG_CACHE_HOME": str(cwd / "cache")}
    command = [sys.executable, "-m", "pipelines.cli", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory) -> tuple[str, dict]:
    """The root of a small demo in a folder, and what the run said."""
    folder = tmp_path_factory.mktemp("folder")
    return str(folder / "build"), json.loads(fastslow("reindex", "demo", "--json", *SMALL, cwd=folder))


@pytest.mark.slow
def test_the_command_as_it_is(remote, tmp_path, in_a_folder):
    """The demo with all of it in the store: data as in a folder, only names hold the checksums that the store keeps."""
    folder, local = in_a_folder
    made = json.loads(fastslow("reindex", "demo", "--json", "--root", remote, *SMALL, cwd=tmp_path))
    assert made["published"] == 1
    assert (made["counts"], made["metrics"]) == (local["counts"], local["metrics"])
    ours, theirs = data_files(remote), data_files(folder)
    for suffix in (".tar", ".tsv", ".parquet", ".faiss", ".lists", ".npy", ".npz", ".trec"):
        found = sorted(digest for name, digest in ours.items() if name.endswith(suffix))
        assert found == sorted(digest for name, digest in theirs.items() if name.endswith(suffix)), suffix
        assert found
    again = json.loads(fastslow("reindex", "demo", "--json", "--root", remote, *SMALL, cwd=tmp_path))
    assert (again["published"], again["seconds"]) == (None, {})
    assert data_files(remote) == ours
    shown = json.loads(fastslow("search", "demo", "a red circle", "--root", remote, "-k", "3", "--json", cwd=tmp_path))
    assert [answer["rank"] for answer in shown] == [1, 2, 3]
    page = fastslow("report", "demo", "--root", remote, cwd=tmp_path).strip()
    assert page == f"{remote}/reports/demo/000001/index.html"
    assert read_json(f"{remote}/CURRENT/demo") == {"generation": 1}
