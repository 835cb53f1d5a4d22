"""Embedding parts and a query table for the index: made vectors with a modality gap, or real ones tiled.

A made meaning is topic + subject + detail, its power falling along the axes as that of trained embeddings does. A
picture is its meaning beside one constant direction, a text a noisy copy of a picture's meaning beside another, so that
all pictures are nearer to each other than to any text: the modality gap of dual encoders trained by contrast (Liang et
al., arXiv 2203.02053). An index trained and measured on pictures alone promises too much on such vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.search import read_generation
from schemas.commits import exists
from schemas.configs import DatasetConfig, EncoderConfig, Index
from schemas.digests import digest_value
from schemas.embeddings import VECTOR, read_parts, schema
from schemas.ids import item_id
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import Counts, EmbeddingManifest, QueriesManifest
from schemas.parquet import entry, read_table, vectors, write_table
from schemas.query_logs import table_schema

PART_ROWS = 50_000
GROUP_ROWS = 10_000
QUERIES = 4_000
TOPICS, SUBJECTS = 200, 20_000
NOISE = 0.3
"""Length of what is added to a real vector of length 1."""

ENCODER = digest_value("clustered vectors with a modality gap")


@dataclass(frozen=True)
class Clustered:
    """Made vectors.

    Attributes:
      dim: width of a vector.
      seed: of everything.
    """

    dim: int = 256
    seed: int = 0

    def meanings(self, number: int, rows: int) -> np.ndarray:
        """float32 (rows, dim): of the items of one part."""
        topics, subjects, power = self._centres()
        rng = np.random.default_rng((self.seed, 2, number))
        chosen = rng.integers(0, SUBJECTS, rows)
        found = rng.standard_normal((rows, self.dim), np.float32)
        found *= 0.6 * power
        found += 0.5 * subjects[chosen]
        found += 0.6 * topics[chosen % TOPICS]
        return found

    def pictures(self, number: int, rows: int) -> np.ndarray:
        """float32 (rows, dim), L2 norm 1: the items of one part."""
        return _unit(self.meanings(number, rows) + self._gap()[0])

    def texts(self, count: int) -> np.ndarray:
        """float32 (count, dim), L2 norm 1: what people would type to find items of the first part."""
        rng = np.random.default_rng((self.seed, 3))
        meaning = self.meanings(0, PART_ROWS)[rng.permutation(PART_ROWS)[:count]]
        noise = rng.standard_normal(meaning.shape, np.float32) * self._centres()[2]
        return _unit(meaning + 0.5 * noise + self._gap()[1])

    def _centres(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Topics and subjects, float32 (count, dim), and the power of each axis, float32 (dim,)."""
        rng = np.random.default_rng((self.seed, 1))
        power = np.arange(1, self.dim + 1, dtype=np.float32) ** -0.5
        power /= np.linalg.norm(power)
        topics, subjects = (rng.standard_normal((count, self.dim), np.float32) * power for count in (TOPICS, SUBJECTS))
        return topics, subjects, power

    def _gap(self) -> np.ndarray:
        """The constant directions of pictures and texts, float32 (2, dim), orthogonal."""
        rng = np.random.default_rng((self.seed, 4))
        return np.linalg.qr(rng.standard_normal((self.dim, 2)))[0].T.astype(np.float32)


@dataclass(frozen=True)
class Tiled:
    """Real vectors over and over, each time a little off.

    Attributes:
      items: float32 (rows, dim), L2 norm 1, of a finished job.
      queries: float32 (queries, dim), likewise.
      seed: of what is added.
    """

    items: np.ndarray
    queries: np.ndarray
    seed: int = 0

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.items.shape[1]

    def pictures(self, number: int, rows: int) -> np.ndarray:
        """float32 (rows, dim), L2 norm 1: the items of one part."""
        rng = np.random.default_rng((self.seed, 2, number))
        some = self.items[(np.arange(rows) + number * PART_ROWS) % len(self.items)]
        return _unit(some + rng.standard_normal(some.shape, np.float32) * (NOISE / self.dim**0.5))

    def texts(self, count: int) -> np.ndarray:
        """float32 (count, dim) or fewer."""
        return self.queries[np.random.default_rng((self.seed, 3)).permutation(len(self.queries))[:count]]


def read_job(root: str, dataset: str) -> Tiled:
    """The vectors of the generation that a root serves."""
    layout = Layout(root, dataset)
    generation = read_generation(layout)
    parts = read_parts([f"{root}/{part}" for part in generation.embeddings], ["item_id"])
    queries = QueriesManifest.read(f"{root}/{generation.queries}")
    table = read_table(f"{root}/{generation.queries.rsplit('/', 1)[0]}/{queries.data.name}", [VECTOR])
    return Tiled(np.concatenate([part.vectors for part in parts]), vectors(table.column(VECTOR)))


def write_parts(layout: Layout, source: Clustered | Tiled, *, rows: int, first: int = 0) -> list[str]:
    """Embedding parts `first`, `first` + 1, ... of `PART_ROWS` rows each, one in memory at a time; manifests' URLs."""
    numbers = range(first, first + -(-rows // PART_ROWS))
    return [
        _write_part(layout, source, number, min(PART_ROWS, rows - (number - first) * PART_ROWS)) for number in numbers
    ]


def write_queries(layout: Layout, source: Clustered | Tiled) -> str:
    """The texts, every other one to tune on; the manifest's URL."""
    texts = source.texts(QUERIES)
    count, dims = len(texts), {VECTOR: source.dim}
    url, manifest = layout.queries(digest_value({"seed": source.seed}))
    with write_table(url, table_schema(dims, encoder=ENCODER)) as table:
        table.write(
            {
                "query_id": [f"q{number}" for number in range(count)],
                "text": [f"text {number}" for number in range(count)],
                "count": [1] * count,
                "clicked": [[]] * count,
                "split": ["fit" if number % 2 else "test" for number in range(count)],
                VECTOR: texts,
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


def _write_part(layout: Layout, source: Clustered | Tiled, number: int, rows: int) -> str:
    shard = f"part-{number:05d}.tar"
    digest = digest_value({"seed": source.seed, "part": number, "rows": rows, "dim": source.dim})
    paths = layout.embedding_part(ENCODER, shard, digest)
    if exists(paths.manifest):
        return paths.manifest
    made = source.pictures(number, rows).astype(np.float16)
    keys = [f"{number:05d}-{row:05d}" for row in range(rows)]
    dims = {VECTOR: source.dim}
    with write_table(paths.data, schema(dims, encoder=ENCODER)) as table:
        for group in _groups(rows):
            table.write(_columns(layout.dataset, shard, keys[group], made[group]))
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
