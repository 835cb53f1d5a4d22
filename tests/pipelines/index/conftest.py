"""Small generated worlds for the index tests: clustered vectors in embedding parts, and a query log."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from schemas.configs import DatasetConfig, EncoderConfig, Index, Rerank
from schemas.embeddings import schema
from schemas.ids import item_id
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import Counts, EmbeddingManifest, QueriesManifest
from schemas.parquet import entry, write_table
from schemas.query_logs import table_schema

with warnings.catch_warnings():
    # SWIG's modules warn while they load; with warnings as errors that crashes the interpreter.
    warnings.simplefilter("ignore")
    import autofaiss  # noqa: F401
    import faiss  # noqa: F401

ENCODER = "e" * 64


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class World:
    """Everything the stages are given, and the stored vectors as numpy sees them.

    `coarse` and `coarse_queries`: of the levels below the finest, by column.
    """

    job: Job
    parts: list[str]
    queries_url: str
    ids: np.ndarray
    vectors: np.ndarray
    queries: np.ndarray
    split: np.ndarray
    coarse: dict[str, np.ndarray] = field(default_factory=dict)
    coarse_queries: dict[str, np.ndarray] = field(default_factory=dict)

    def with_index(self, **settings: object) -> Job:
        index = self.job.dataset.index.model_copy(update=settings)
        return Job(self.job.dataset.model_copy(update={"index": index}), self.job.encoder, None, self.job.layout)


def write_part(
    layout: Layout,
    name: str,
    vectors: np.ndarray,
    *,
    encoder: str = ENCODER,
    keys: Sequence[str] | None = None,
    coarse: Mapping[str, np.ndarray] | None = None,
) -> str:
    """One embedded shard; returns the URL of its manifest."""
    keys = [f"{name}-{i}" for i in range(len(vectors))] if keys is None else list(keys)
    n, dim = vectors.shape
    paths = layout.embedding_part(ENCODER, f"{name}.tar", f"{len(keys):02x}" * 32)
    columns: dict[str, object] = {
        "item_id": [item_id("toy", key) for key in keys],
        "key": keys,
        "shard": [name] * n,
        "position": list(range(n)),
        "modality": ["image"] * n,
        "captions": [[]] * n,
        "metadata": [""] * n,
        "duration_s": [0.0] * n,
        "frame_times_s": [[]] * n,
        "content_sha256": [""] * n,
        "embedding": vectors.astype(np.float16),
    }
    columns |= {column: values.astype(np.float16) for column, values in (coarse or {}).items()}
    dims = {column: values.shape[1] for column, values in (coarse or {}).items()} | {"embedding": dim}
    columns |= {column: [0] * n for column in ("offset", "size", "width", "height")}
    with write_table(paths.data, schema(dims, encoder=encoder)) as writer:
        for start in range(0, n, 64):  # several row groups
            writer.write({k: v[start : start + 64] for k, v in columns.items()})  # type: ignore[index]
    EmbeddingManifest(
        dataset="toy",
        shard=f"{name}.tar",
        shard_digest=name,
        encoder=encoder,
        config_digest="c",
        dims=dims,
        counts=Counts(seen=n, embedded=n, rejected=0, images=n),
        data=entry(paths.data),
        rejects=entry(paths.data),
    ).commit(paths.manifest)
    return paths.manifest


def write_queries(
    layout: Layout,
    vectors: np.ndarray,
    split: Sequence[str],
    *,
    encoder: str = ENCODER,
    coarse: Mapping[str, np.ndarray] | None = None,
) -> str:
    url, manifest = layout.queries("9" * 64)
    n = len(vectors)
    dims = {column: values.shape[1] for column, values in (coarse or {}).items()} | {"embedding": vectors.shape[1]}
    with write_table(url, table_schema(dims, encoder=encoder)) as writer:
        writer.write(
            {
                "query_id": [f"q{i}" for i in range(n)],
                "text": [f"text {i}" for i in range(n)],
                "count": [1] * n,
                "clicked": [[]] * n,
                "split": list(split),
                "embedding": vectors,
                **(coarse or {}),
            }
        )
    QueriesManifest(
        dataset="toy",
        source="s",
        encoder=encoder,
        dims=dims,
        logged=n,
        distinct=n,
        fit=sum(s == "fit" for s in split),
        data=entry(url),
    ).commit(manifest)
    return manifest


def make_world(
    root: Path,
    *,
    rows: int = 600,
    dim: int = 16,
    queries: int = 200,
    key: str = "IVF16,Flat",
    coarse: Sequence[int] = (),
) -> World:
    """Clustered items in three parts of unequal size; queries between clusters, so that nprobe matters.

    `coarse`: widths of levels below the finest: its first numbers, normalised.
    """
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(24, dim))
    items = unit(centres[rng.integers(0, 24, rows)] + 0.6 * rng.normal(size=(rows, dim)))
    asked = unit(centres[rng.integers(0, 24, queries)] + 0.9 * rng.normal(size=(queries, dim)))
    split = np.where(np.arange(queries) % 2, "fit", "test")
    layout = Layout(str(root / "out"), "toy")
    config = DatasetConfig(name="toy", encoder="toy", index=Index(key=key), rerank=Rerank(depth=12))
    cuts = [0, rows // 6, rows // 2, rows]
    levels = {f"embedding_{width}": unit(items[:, :width]) for width in coarse}
    asked_levels = {f"embedding_{width}": unit(asked[:, :width]) for width in coarse}
    parts = [
        write_part(layout, f"s{i}", items[a:b], coarse={name: values[a:b] for name, values in levels.items()})
        for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False))
    ]
    ids = [
        item_id("toy", f"s{i}-{j}") for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False)) for j in range(b - a)
    ]
    return World(
        Job(config, EncoderConfig(path="toy"), None, layout),
        parts,
        write_queries(layout, asked, split.tolist(), coarse=asked_levels),
        np.array(ids, np.int64),
        items.astype(np.float16).astype(np.float32),
        asked,
        split,
        {name: values.astype(np.float16).astype(np.float32) for name, values in levels.items()},
        asked_levels,
    )


def brute_force(ids: np.ndarray, items: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The oracle of the oracle: everything in float64, sorted whole."""
    scores = (queries.astype(np.float64) @ items.astype(np.float64).T).astype(np.float32)
    order = np.lexsort((np.broadcast_to(ids, scores.shape), -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), ids[order]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., World]:
    return lambda **sizes: make_world(tmp_path, **sizes)


@pytest.fixture
def oracle() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return brute_force


@pytest.fixture
def part_writer() -> Callable[..., str]:
    return write_part


@pytest.fixture
def query_writer() -> Callable[..., str]:
    return write_queries
