"""What a finished unit leaves behind: the commit record that readers trust, and nothing else.

A manifest holds no time of day and no duration: run again, it has the same bytes. (Seconds are kept in the
generation's manifest, which is about one night and not about content.)
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.commits import commit_json, exists, publish_file, read_json
from schemas.digests import digest_file, digest_value
from schemas.errors import InputError, LedgerError, StaleError
from schemas.stores import is_local, list_files, open_store

SCHEMA_VERSION = 1

READ_AT_ONCE = 16
"""Manifests from an object store."""


class Manifest(BaseModel):
    """Base of all manifests: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION

    @classmethod
    def read(cls, url: str) -> Self:
        """The manifest at `url`.

        Raises:
          InputError: missing, not JSON, of another kind, or written by a newer version.
        """
        value = read_json(url)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(
                f"{url}: schema version {version}, this program knows up to {SCHEMA_VERSION}; upgrade fastslow"
            )
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise InputError(
                f"{url}: not a {cls.__name__}: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}"
            ) from error

    @classmethod
    def read_all(cls, urls: Iterable[str]) -> list[Self]:
        """The manifests at URLs, in that order; from an object store many at a time.

        Raises:
          InputError: as `read`.
        """
        urls = list(urls)
        if len(urls) < 2 or is_local(open_store(urls[0])[0]):
            return [cls.read(url) for url in urls]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:  # each waits for the network
            return list(pool.map(cls.read, urls))

    @property
    def digest(self) -> str:
        """The name of a finished unit as an input of the next: of the whole manifest, so of what it was made of too."""
        return digest_value(self.model_dump(mode="json"))

    def commit(self, url: str) -> bool:
        """Creates the manifest if absent; True when this call made it."""
        return commit_json(url, self.model_dump(mode="json"))

    def commit_unit(self, url: str, files: Mapping[Path, str], *, subject: str) -> Self:
        """Publishes finished local files, then creates the manifest that makes them count.

        Where another worker was faster, its files and its manifest stand.

        Args:
          files: local file -> its URL.
          subject: what the unit is made of, for the message.

        Returns:
          The manifest that stands at `url`, equal to this one.

        Raises:
          StaleError: another worker committed other bytes.
        """
        if not exists(url):
            for local, target in files.items():
                publish_file(local, target)
        if self.commit(url):
            return self
        theirs = self.read(url)
        if theirs != self:
            raise StaleError(
                f"{subject}: another worker committed other bytes; results differ between devices. Remove {url} "
                "and run again"
            )
        return theirs


class Counts(BaseModel):
    """The ledger of one shard: every sample seen is a row or a reject.

    Attributes:
      seen: samples met, the refused ones included (and one for a shard that broke off).
      embedded: rows written, of which `images` and `videos`.
      rejected: rows of the rejects table.
      caption_errors: captions or metadata that could not be read; their pictures are still embedded.
      ignored_members: tar members that are no part of a sample (folders, links, dot files).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: int = Field(ge=0)
    embedded: int = Field(ge=0)
    rejected: int = Field(ge=0)
    images: int = Field(default=0, ge=0)
    videos: int = Field(default=0, ge=0)
    caption_errors: int = Field(default=0, ge=0)
    ignored_members: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.seen != self.embedded + self.rejected or self.embedded != self.images + self.videos:
            raise LedgerError(f"samples were lost or doubled: {self!r}")
        return self

    def __add__(self, other: "Counts") -> "Counts":
        """Field by field."""
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})

    @classmethod
    def zero(cls) -> Self:
        """Nothing seen yet."""
        return cls(seen=0, embedded=0, rejected=0)


class FileEntry(BaseModel):
    """A data file as it was committed: name relative to its manifest's folder, rows, size, SHA-256.

    A name may lead out of the folder, with `../` in front.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    size_bytes: int
    sha256: str

    def url(self, manifest_url: str) -> str:
        """Where the file lies; without "..", which an object store takes for a folder."""
        folder, name = manifest_url.rsplit("/", 1)[0], self.name
        while name.startswith("../"):
            folder, name = folder.rsplit("/", 1)[0], name[3:]
        return f"{folder}/{name}"

    @classmethod
    def of(cls, local: Path, url: str, rows: int) -> Self:
        """Describes a file that will lie at `url` from its local copy: there, others may replace it at any moment."""
        size, digest = local.stat().st_size, digest_file(str(local))
        return cls(name=url.rsplit("/", 1)[-1], rows=rows, size_bytes=size, sha256=digest)


class PreparedManifest(Manifest):
    """Shards made from a source, and the query log beside them."""

    kind: Literal["prepared"] = "prepared"
    dataset: str
    config: dict[str, Any]  # the `prepare` part of the dataset config
    shards: tuple[FileEntry, ...]
    queries: FileEntry
    counts: dict[str, int]  # what was packed, and what was missing or left over
    missing: tuple[str, ...] = ()  # the first of the items that should have been there


class EmbeddingManifest(Manifest):
    """One embedded shard."""

    kind: Literal["embedding"] = "embedding"
    dataset: str
    shard: str  # its URL
    shard_digest: str
    encoder: str  # fingerprint
    config_digest: str
    vectors_digest: str = ""  # of what decides a vector of given content; "" in parts from before it was kept
    dims: dict[str, int]  # vector column -> width
    counts: Counts
    data: FileEntry
    rejects: FileEntry


class QueriesManifest(Manifest):
    """The encoded query log: distinct queries, their vectors, their split."""

    kind: Literal["queries"] = "queries"
    dataset: str
    source: str  # digest of the log's content
    encoder: str
    dims: dict[str, int]
    logged: int  # rows of the log
    distinct: int  # rows of the table
    fit: int  # of which used for tuning and fitting
    data: FileEntry


class TrainedManifest(Manifest):
    """A trained index without items."""

    kind: Literal["trained"] = "trained"
    dataset: str
    key: str  # FAISS factory string
    dim: int
    rows: int  # trained on
    data: FileEntry


class PartialManifest(Manifest):
    """What one embedding part adds to a trained index."""

    kind: Literal["partial"] = "partial"
    part: str  # digest of the vectors
    trained: str  # digest of the trained index
    error: float  # mean quantization error of a sample of its rows; 0 where there are none
    data: FileEntry


class LevelsEntry(BaseModel):
    """Coarse-to-fine search: what lies beside the index, and what it promises.

    Attributes:
      columns: vector columns, coarse to fine; the first is in the index, the last orders the answers. The same twice:
        compressed in the index, whole beside it.
      dims: their widths, d_m.
      shortlist: items kept after each level but the last, K_m.
      coarse_recall: recall@`recall_k` of the index alone, against exact search at its own level.
      macs: multiply-adds a query, N d_1 + K_1 d_2 + ...; `flat_macs`: N d_M, of exhaustive search at the finest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...]
    dims: tuple[int, ...]
    shortlist: tuple[int, ...]
    coarse_recall: float
    macs: int
    flat_macs: int

    @property
    def refined(self) -> bool:
        """Whether whole vectors order what the index finds among compressed ones of the same level."""
        return self.columns[0] == self.columns[-1]


class SegmentEntry(BaseModel):
    """Items that were put into an index together; several segments share one trained index.

    Attributes:
      lists: of the first segment a whole FAISS file, of others inverted lists alone.
      ids: item ids, int64, rising (NumPy).
      vectors: of the levels above the first, (items, width) in the order of `ids` (NumPy); none for a flat search.
      parts: digests of the embedding parts it was filled from and that are still served.
      deleted: items in it that are no longer served, in this form.
      error: mean quantization error of its rows; None for kinds without inverted lists.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lists: FileEntry
    ids: FileEntry
    vectors: tuple[FileEntry, ...]
    parts: tuple[str, ...]
    deleted: int = 0
    error: float | None

    @property
    def live(self) -> int:
        """Items that are answers."""
        return self.ids.rows - self.deleted


class Lineage(BaseModel):
    """Where the centroids and codebooks of an index come from, and how far the items have moved on since.

    Attributes:
      trained: digest of the trained index.
      rows: items there were when it was trained.
      changed: items added or removed since then.
      error: mean quantization error of the items there were then.
      imbalance: imbalance factor of the lists then; 1 where all are equally long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trained: str
    rows: int
    changed: int = 0
    error: float
    imbalance: float


class IndexManifest(Manifest):
    """A built and tuned index."""

    kind: Literal["index"] = "index"
    dataset: str
    embeddings: str  # digest of the embedding set
    queries: str  # digest of the query table it was tuned on
    config_digest: str
    encoder: str
    key: str  # FAISS factory string
    parameters: str  # operating point, e.g. "nprobe=8"
    rows: int
    dim: int
    metric: Literal["inner_product"] = "inner_product"
    recall: float  # at `recall_k`, tuning queries, against exact search at the finest level
    recall_k: int
    recall_target: float
    self_recall: float  # share of sampled items that are among the `recall_k` their own vector finds
    faiss_version: str
    segments: tuple[SegmentEntry, ...]  # one, or several that a search merges
    tombstones: FileEntry | None = Field(default=None, exclude_if=lambda value: value is None)  # what `deleted` counts
    truth: FileEntry  # exact neighbours of the queries it was tuned on, for the index that is made of this one
    lineage: Lineage | None  # of kinds with inverted lists
    levels: LevelsEntry | None = Field(default=None, exclude_if=lambda value: value is None)  # of coarse to fine

    @property
    def size_bytes(self) -> int:
        """Of the index itself, without ids and vectors beside it."""
        return sum(segment.lists.size_bytes for segment in self.segments)

    @property
    def beside_bytes(self) -> int:
        """Of the vectors that finer levels are searched in, and the ids of their rows."""
        return sum(file.size_bytes for one in self.segments for file in (one.ids, *one.vectors))

    @property
    def content(self) -> str:
        """Digest of its files."""
        digests = [segment.lists.sha256 for segment in self.segments] + (
            [self.tombstones.sha256] if self.tombstones else []
        )
        return digests[0] if len(digests) == 1 else digest_value(digests)


class CandidatesManifest(Manifest):
    """First-stage candidates of every query."""

    kind: Literal["candidates"] = "candidates"
    dataset: str
    index: str
    queries: str
    depth: int
    data: FileEntry


class ScoresManifest(Manifest):
    """Pair scores of one shard's candidates."""

    kind: Literal["scores"] = "scores"
    dataset: str
    shard: str
    candidates: str
    scorer: str
    pairs: int
    items: int
    unscored: int  # pairs whose picture could not be read this time
    settings: str = ""  # digest of what decides the score of a given text and picture
    reused: int = 0  # of the pairs, those whose score was taken over from an earlier set
    data: FileEntry
    rejects: FileEntry


class RankingsManifest(Manifest):
    """Final rankings of every query."""

    kind: Literal["rankings"] = "rankings"
    dataset: str
    candidates: str
    encoder: str
    scorer: str | None
    beta: float
    beta_source: str  # "fit", "config", "checkpoint" or "none"
    queries: int
    pair_evaluations: int  # pairs with a score
    reused_pairs: int = 0  # of which scored for an earlier generation
    scores: str | None = None  # digest that names the folder of pair scores
    unscored_pairs: int  # candidates whose picture could not be read; they rank after the scored ones
    items_encoded: int
    ground_truth: str  # "captions", "clicked" or "none"
    data: FileEntry
    judgements: FileEntry


class Generation(Manifest):
    """One published state: everything a reader needs to answer queries, and how good it was measured to be."""

    kind: Literal["generation"] = "generation"
    dataset: str
    number: int
    parent: int | None  # the generation that was served when this one was planned
    created: str  # UTC, ISO 8601
    content: str  # digest of all that follows up to `config`; equal content is never published twice
    embeddings: tuple[str, ...]  # manifests, relative to the root
    embeddings_digest: str
    queries: str
    index: str
    candidates: str | None
    rankings: str | None
    config: dict[str, Any]
    counts: Counts
    metrics: dict[str, Any]
    seconds: dict[str, float]


class GateResult(BaseModel):
    """What one gate says of a generation.

    Attributes:
      value, limit: the figure and what it was held against.
      said: both in words.
      examples: of what is wrong, the worst first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: str
    passed: bool
    value: float
    limit: float
    said: str
    examples: tuple[str, ...] = ()


class GateResults(Manifest):
    """What all gates say of a generation, beside its manifest."""

    kind: Literal["gates"] = "gates"
    dataset: str
    number: int
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Whether it may be served."""
        return all(one.passed for one in self.gates)


def embedding_set_digest(manifests: list[EmbeddingManifest]) -> str:
    """The name of a set of embedded shards: what they hold, in any order."""
    return digest_value(sorted((m.shard_digest, m.encoder, m.data.sha256) for m in manifests))


def list_manifests(folder: str) -> list[str]:
    """URLs of the manifests (`*.json`) directly in a folder, sorted; empty when there is no folder."""
    below = len(folder) + 1
    return sorted(url for url in list_files(folder) if url.endswith(".json") and "/" not in url[below:])
