"""Embedding parts and a query table made from a seed: clustered vectors with a gap between texts and pictures.

A meaning is topic + subject + detail, its power falling along the axes as that of trained embeddings does. A picture
is its meaning beside one constant direction, a text a noisy copy of a picture's meaning beside another, so that all
pictures are nearer to each other than to any text: the modality gap of dual encoders trained by contrast (Liang et al.,
arXiv 2203.02053). An index trained and measured on pictures alone promises too much on such vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from schemas.configs import DatasetConfig, EncoderConfig, Index
from schemas.digests import digest_value
from schemas.embeddings import VECTOR, schema
from schemas.ids import item_id
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import Counts, EmbeddingManifest, QueriesManifest
from schemas.parquet import entry, write_table
from schemas.query_logs import table_schema

PART_ROWS = 50_000
GROUP_ROWS = 10_000
QUERIES = 4_000
TOPICS, SUBJECTS = 200, 20_000
ENCODER = digest_value("clustered vectors with a modality gap")


@dataclass(frozen=True)
class World:
    """Where meanings lie.

    Attributes:
      topics, subjects: float32 (count, dim).
      power: of each axis, float32 (dim,).
      picture, text: the constant directions, float32 (dim,).
    """

    topics: np.ndarray
    subjects: np.ndarray
    power: np.ndarray
    picture: np.ndarray
    text: np.ndarray

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return len(self.power)


def make_world(dim: int, *, seed: int = 0) -> World:
    """The same for all parts and queries of a seed."""
    rng = np.random.default_rng((seed, 1))
    power = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    power /= np.linalg.norm(power)
    gap, _ = np.linalg.qr(rng.standard_normal((dim, 2)))
    draw = [rng.standard_normal((count, dim), np.float32) * power for count in (TOPICS, SUBJECTS)]
    return World(draw[0], draw[1], power, gap[:, 0].astype(np.float32), gap[:, 1].astype(np.float32))


def meanings(world: World, number: int, rows: int, *, seed: int = 0) -> np.ndarray:
    """float32 (rows, dim): of the items of one part."""
    rng = np.random.default_rng((seed, 2, number))
    subjects = rng.integers(0, SUBJECTS, rows)
    found = rng.standard_normal((rows, world.dim), np.float32)
    found *= 0.6 * world.power
    found += 0.5 * world.subjects[subjects]
    found += 0.6 * world.topics[subjects % TOPICS]
    return found


def pictures(world: World, meaning: np.ndarray) -> np.ndarray:
    """float32 (rows, dim), L2 norm 1."""
    return _unit(meaning + world.picture)


def texts(world: World, meaning: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """float32 (rows, dim), L2 norm 1: what people would type to find these."""
    rng = np.random.default_rng((seed, 3))
    noise = rng.standard_normal(meaning.shape, np.float32) * world.power
    return _unit(meaning + 0.5 * noise + world.text)


def write_parts(layout: Layout, world: World, *, rows: int, first: int = 0, seed: int = 0) -> list[str]:
    """Embedding parts `first`, `first` + 1, ... of `PART_ROWS` rows each, one in memory at a time; manifests' URLs."""
    numbers = range(first, first + -(-rows // PART_ROWS))
    return [
        _write_part(layout, world, number, min(PART_ROWS, rows - (number - first) * PART_ROWS), seed)
        for number in numbers
    ]


def write_queries(layout: Layout, world: World, *, rows: int, seed: int = 0) -> str:
    """Texts about pictures of the first parts, half of them to tune on; the manifest's URL."""
    meaning = meanings(world, 0, min(PART_ROWS, rows), seed=seed)
    chosen = np.random.default_rng((seed, 4)).permutation(len(meaning))[:QUERIES]
    vectors = texts(world, meaning[chosen], seed=seed)
    url, manifest = layout.queries(digest_value({"seed": seed, "rows": rows}))
    dims = {VECTOR: world.dim}
    count = len(vectors)
    with write_table(url, table_schema(dims, encoder=ENCODER)) as table:
        table.write(
            {
                "query_id": [f"q{number}" for number in range(count)],
                "text": [f"text {number}" for number in range(count)],
                "count": [1] * count,
                "clicked": [[]] * count,
                "split": ["fit" if number % 2 else "test" for number in range(count)],
                VECTOR: vectors,
            }
        )
    QueriesManifest(
        dataset=layout.dataset,
        source=ENCODER,
        encoder=ENCODER,
        dims=dims,
        logged=count,
        distinct=count,
        fit=count // 2,
        data=entry(url),
    ).commit(manifest)
    return manifest


def job(layout: Layout, index: Index) -> Job:
    """A job as the index stage wants it; its encoder is never loaded."""
    config = DatasetConfig(name=layout.dataset, encoder="none", index=index)
    return Job(config, EncoderConfig(path="none"), None, layout)


def _write_part(layout: Layout, world: World, number: int, rows: int, seed: int) -> str:
    shard = f"part-{number:05d}.tar"
    digest = digest_value({"seed": seed, "part": number, "rows": rows, "dim": world.dim})
    paths = layout.embedding_part(ENCODER, shard, digest)
    vectors = pictures(world, meanings(world, number, rows, seed=seed)).astype(np.float16)
    keys = [f"{number:05d}-{row:05d}" for row in range(rows)]
    dims = {VECTOR: world.dim}
    with write_table(paths.data, schema(dims, encoder=ENCODER)) as table:
        for group in _groups(rows):
            table.write(_columns(layout.dataset, shard, keys[group], vectors[group]))
    written = entry(paths.data)
    EmbeddingManifest(
        dataset=layout.dataset,
        shard=shard,
        shard_digest=digest,
        encoder=ENCODER,
        config_digest="benchmark",
        dims=dims,
        counts=Counts(seen=rows, embedded=rows, rejected=0, images=rows),
        data=written,
        rejects=written,
    ).commit(paths.manifest)
    return paths.manifest


def _groups(rows: int) -> Iterator[slice]:
    yield from (slice(start, min(rows, start + GROUP_ROWS)) for start in range(0, rows, GROUP_ROWS))


def _columns(dataset: str, shard: str, keys: list[str], vectors: np.ndarray) -> dict[str, object]:
    count = len(keys)
    zeros = np.zeros(count, np.int64)
    return {
        "item_id": [item_id(dataset, key) for key in keys],
        "key": keys,
        "shard": [shard] * count,
        "position": zeros.astype(np.int32),
        "offset": zeros,
        "size": zeros,
        "modality": ["image"] * count,
        "captions": [[]] * count,
        "metadata": [""] * count,
        "width": zeros.astype(np.int32),
        "height": zeros.astype(np.int32),
        "duration_s": zeros.astype(np.float32),
        "frame_times_s": [[]] * count,
        "content_sha256": [""] * count,
        VECTOR: vectors,
    }


def _unit(values: np.ndarray) -> np.ndarray:
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values
