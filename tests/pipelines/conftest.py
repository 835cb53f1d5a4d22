"""The coloured world of the rerank tests, taken through every stage and published once a test run."""

import importlib.util
import sys
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from encoders import registry
from schemas.layout import Layout
from schemas.manifests import Counts, EmbeddingManifest, Generation, embedding_set_digest


@dataclass
class PublishedWorld:
    """The world, its generation, and the module that made it."""

    module: ModuleType
    world: object
    layout: Layout
    generation: Generation
    rankings_folder: str


def _colour_world() -> ModuleType:
    name = "fastslow_colour_world"
    if name not in sys.modules:
        path = Path(__file__).parent / "rerank" / "colour_world.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def _made_once(tmp_path_factory):
    """Sixty pictures and clips, embedded, indexed, searched, reranked, measured, published; nothing made up."""
    module = _colour_world()
    with _registered(module.ColourModel):
        return _publish(module, tmp_path_factory.mktemp("published"))


@pytest.fixture
def published_world(_made_once):
    """The published world, its model registered like any other; tests read it and change nothing."""
    with _registered(_made_once.module.ColourModel):
        yield _made_once


@pytest.fixture
def published_levels_world(tmp_path):
    """The same pictures, searched from coarse to fine with short shortlists."""
    module = _colour_world()
    with _registered(module.LeveledColourModel):
        yield _publish(module, tmp_path, index={"shortlist": [30], "recall_target": 0.3})


@contextmanager
def _registered(model: type):
    entry = registry.Entry(dual=lambda: model, scorer=lambda: model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.MODEL_TYPES, "test-colour", entry)
        yield


def _publish(module: ModuleType, root: Path, **settings: object) -> PublishedWorld:
    with warnings.catch_warnings():
        # SWIG's modules warn while they load; with warnings as errors that crashes the interpreter.
        warnings.simplefilter("ignore")
        import autofaiss  # noqa: F401
        import faiss  # noqa: F401

    from pipelines.evaluate import job as evaluate
    from pipelines.index import candidates
    from pipelines.index import job as index
    from pipelines.reindex import publish
    from pipelines.rerank import job as rerank

    model = root / "colour.yaml"
    model.write_text(yaml.safe_dump({"path": str(root / "world" / "model"), "dtype": "float32"}))
    world = module.make_world(root / "world", items=60, depth=10, encoder=str(model), scorer=str(model), **settings)
    job, parts = world.job, world.plan.manifests
    index_url = index.run(job, parts, world.queries)
    candidates_url = candidates.run(job, parts, index_url, world.queries)
    rankings_url = rerank.run(job, world.plan, candidates_url, world.queries, lanes=2)
    metrics = evaluate.run(job, world.plan, index_url, world.queries, rankings_url)
    manifests = [EmbeddingManifest.read(url) for url in parts]

    def relative(url: str) -> str:
        return url.removeprefix(f"{job.layout.root}/")

    fields = {
        "dataset": "colours",
        "content": "c" * 64,
        "embeddings": tuple(relative(url) for url in parts),
        "embeddings_digest": embedding_set_digest(manifests),
        "queries": relative(world.queries),
        "index": relative(index_url),
        "candidates": relative(candidates_url),
        "rankings": relative(rankings_url),
        "config": job.dataset.model_dump(mode="json"),
        "counts": sum((manifest.counts for manifest in manifests), Counts.zero()),
        "metrics": metrics,
        "seconds": {"embed": 1.5, "rerank": 0.25},
    }
    generation = publish.write_generation(job.layout, fields, parent=None)
    publish.serve(job.layout, generation.number, expected=None)
    return PublishedWorld(module, world, job.layout, generation, rankings_url.rsplit("/", 1)[0])
