"""Where each thing lives under an output root; the only file that joins paths.

<root>/shards/<dataset>/                               prepared inputs
<root>/cache/                                          memos that may be deleted at any time
<root>/embeddings/<dataset>/<encoder>/<shard>-<digest>.parquet | .rejects.parquet | .json (the commit record)
<root>/queries/<dataset>/<digest>.parquet | .json      distinct queries with their vectors
<root>/trained/<dataset>/<digest>/                     trained.faiss  manifest.json  <part>.lists | .json (partial)
<root>/indexes/<dataset>/<digest>/                     index.faiss  ids.npy  truth.npz  tuning.json
                                                       timings.json  manifest.json
                                                       (with levels: embedding.npy  embedding_<width>.npy)
                                                       (made of another one: <n>/items.lists  <n>/ids.npy
                                                       tombstones.parquet, no index.faiss)
<root>/candidates/<dataset>/<digest>/                  candidates.parquet  manifest.json
<root>/scores/<dataset>/<digest>/                      one Parquet of pair scores a shard, with its manifest
<root>/rankings/<dataset>/<digest>/                    rankings.parquet  judgements.parquet  run.trec  qrels.trec
                                                       metrics.json  manifest.json
<root>/generations/<dataset>/<number>/manifest.json    what makes up one published state; gates.json: whether it may be
<root>/reports/<dataset>/<number>/index.html           self-contained
<root>/CURRENT/<dataset>                               the generation being served; the only result ever overwritten
<root>/LOCK/<dataset>                                  who is at work on the dataset, while somebody is
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from schemas.digests import short
from schemas.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def safe_name(name: str, *, what: str) -> str:
    """The name itself when it can be one folder or file name.

    Raises:
      ConfigError: it is empty, too long, or holds anything but letters, digits, "_", "." and "-".
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{what}: expected letters, digits, '_', '.' or '-' (100 at most), got {name!r}")
    return name


def shard_stem(url: str) -> str:
    """A shard's file name without folders and tar suffixes, made safe for a file name.

    >>> shard_stem("s3://bucket/a/coco-00001.tar")
    'coco-00001'
    """
    name = PurePosixPath(url.split("?")[0]).name
    name = re.sub(r"\.(tar|tgz)$", "", re.sub(r"\.(gz|bz2|xz|zst)$", "", name))
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100] or "shard"


@dataclass(frozen=True)
class EmbeddingPaths:
    """The three files of one embedded shard."""

    data: str
    rejects: str
    manifest: str


@dataclass(frozen=True)
class ScorePaths:
    """The files of one shard's pair scores; `pairs` is the work asked for, written before it is done."""

    pairs: str
    data: str
    rejects: str
    manifest: str

    @classmethod
    def of(cls, manifest: str) -> "ScorePaths":
        """The others by the name of one."""
        stem = manifest.removesuffix(".json")
        return cls(f"{stem}.pairs.parquet", f"{stem}.parquet", f"{stem}.rejects.parquet", f"{stem}.json")


@dataclass(frozen=True)
class Layout:
    """Paths below one output root (a folder, `s3://` or `gs://`) for one dataset."""

    root: str
    dataset: str

    def __post_init__(self) -> None:
        """Refuse names that could leave the root."""
        object.__setattr__(self, "root", self.root.rstrip("/"))
        safe_name(self.dataset, what="dataset name")

    def _at(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def shards(self) -> str:
        """Folder of prepared shards."""
        return self._at("shards", self.dataset)

    def cache(self, kind: str, digest: str) -> str:
        """A memo: deleting it costs time, never correctness."""
        return self._at("cache", kind, f"{digest}.json")

    def truth(self, digest: str) -> str:
        """A memo: exact neighbours of queries."""
        return self._at("cache", "truth", self.dataset, f"{short(digest)}.npz")

    def downloads(self) -> str:
        """Folder of fetched archives, kept until removed by hand."""
        return self._at("cache", "downloads")

    def embeddings(self, fingerprint: str) -> str:
        """Folder of everything one encoder made of the dataset."""
        return self._at("embeddings", self.dataset, short(fingerprint))

    def embedding_part(
        self, fingerprint: str, shard_url: str, shard_digest: str, *, attempt: int = 0
    ) -> EmbeddingPaths:
        """The files of one shard, named by its content.

        Args:
          attempt: 1 and more: made again from the same content, for what was refused before.
        """
        stem = f"{self.embeddings(fingerprint)}/{shard_stem(shard_url)}-{short(shard_digest)}"
        stem += f".again{attempt}" if attempt else ""
        return EmbeddingPaths(f"{stem}.parquet", f"{stem}.rejects.parquet", f"{stem}.json")

    def queries(self, digest: str) -> tuple[str, str]:
        """(table, manifest) of the encoded query log."""
        stem = self._at("queries", self.dataset, short(digest))
        return f"{stem}.parquet", f"{stem}.json"

    def index(self, digest: str) -> str:
        """Folder of one index."""
        return self._at("indexes", self.dataset, short(digest))

    def trained(self, digest: str) -> str:
        """Folder of one trained, empty index, and of the partial ones filled from it."""
        return self._at("trained", self.dataset, short(digest))

    def partial(self, trained: str, digest: str) -> str:
        """Stem of the files of one partial index."""
        return f"{self.trained(trained)}/{short(digest)}"

    def candidates(self, digest: str) -> str:
        """Folder of the first-stage candidates of all queries."""
        return self._at("candidates", self.dataset, short(digest))

    def scores(self, digest: str) -> str:
        """Folder of pair scores, one file a shard."""
        return self._at("scores", self.dataset, short(digest))

    def score_part(self, digest: str, shard_url: str, shard_digest: str) -> ScorePaths:
        """The files of one shard's pair scores."""
        return ScorePaths.of(f"{self.scores(digest)}/{shard_stem(shard_url)}-{short(shard_digest)}.json")

    def rankings(self, digest: str) -> str:
        """Folder of the final rankings of all queries."""
        return self._at("rankings", self.dataset, short(digest))

    def generations(self) -> str:
        """Folder of all generations."""
        return self._at("generations", self.dataset)

    def generation(self, number: int) -> str:
        """Manifest of one generation."""
        return f"{self.generations()}/{number:06d}/manifest.json"

    def gates(self, number: int) -> str:
        """What the gates said of one generation."""
        return f"{self.generations()}/{number:06d}/gates.json"

    def report(self, number: int) -> str:
        """The page of one generation."""
        return self._at("reports", self.dataset, f"{number:06d}", "index.html")

    def lock(self) -> str:
        """Who is at work on the dataset."""
        return self._at("LOCK", self.dataset)

    def current(self) -> str:
        """The pointer to the generation being served."""
        return self._at("CURRENT", self.dataset)
