"""What a report shows, as plain values: gathered by `report.py`, drawn by `page.py` and `charts.py`."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Verdict = Literal["better", "worse", "unchanged", "changed"]
"""What reranking did to a query's first relevant item; "changed" where nothing is known to be relevant."""


class Estimate(NamedTuple):
    """A measured share with its 95 % interval, all from 0 to 1; without an interval low = high = value."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class StageQuality:
    """How good the ranking is after one step.

    Attributes:
      name: of the step: "exact", "index", "rerank", "fused".
      note: what the step does, in a few words.
      recalls: K -> share of queries with a relevant item among the first K.
      median_rank: of the first relevant item, from 1; None where it was not measured.
      ndcg: at 10; None where it was not measured.
    """

    name: str
    note: str
    recalls: dict[int, Estimate]
    median_rank: float | None = None
    ndcg: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Headline:
    """One of the key numbers: shares before and after reranking, and the paired difference with its interval.

    Attributes:
      reranked, gain: None without reranking.
    """

    name: str
    fast: float
    reranked: float | None = None
    gain: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """Queries whose first result is not relevant, by the step that lost them.

    Attributes:
      queries: how many; `share` of all measured queries.
    """

    where: str
    note: str
    queries: int
    share: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One operating point of the index: its recall against exact search and milliseconds per query."""

    parameters: str
    recall: float
    ms: float


@dataclass(frozen=True, slots=True)
class Curve:
    """All measured operating points for one kind of query.

    Attributes:
      queries: "text queries" or "image queries".
      points: as measured.
      chosen: parameters of the point being served.
    """

    queries: str
    points: tuple[CurvePoint, ...]
    chosen: str


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """Coarse-to-fine search; see schemas.manifests.LevelsEntry."""

    refined: bool
    dims: tuple[int, ...]
    shortlist: tuple[int, ...]
    coarse_recall: float
    size_bytes: int  # of the vectors above the index
    saved: float  # multiply-adds of a flat search, in multiples of those done


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """The index and how it was tuned."""

    key: str
    parameters: str
    rows: int
    dim: int
    recall: float
    recall_k: int
    recall_target: float
    size_bytes: int
    curves: tuple[Curve, ...] = ()
    levels: LevelFacts | None = None


@dataclass(frozen=True, slots=True)
class ShardLedger:
    """One shard's samples: seen = images + videos + rejected."""

    shard: str
    seen: int
    images: int
    videos: int
    rejected: int
    caption_errors: int
    ignored_members: int


@dataclass(frozen=True, slots=True)
class RejectExample:
    """One refused sample."""

    key: str
    shard: str
    message: str


@dataclass(frozen=True, slots=True)
class RejectGroup:
    """All samples refused at one stage for one reason, with a few of them."""

    stage: str
    error: str
    count: int
    examples: tuple[RejectExample, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One item in one ranking.

    Attributes:
      rank: from 1.
      key, modality, captions: of the item.
      thumbnail: JPEG bytes, a strip of frames for a video; None when the picture could not be read.
      score: what this ranking sorts by.
      slow_score: of the pair; None when it was not scored.
      relevant: known to answer the query.
      moved: places gained (positive) or lost against the fast ranking; None in the fast ranking itself.
    """

    rank: int
    key: str
    modality: str
    captions: tuple[str, ...]
    thumbnail: bytes | None
    score: float
    slow_score: float | None
    relevant: bool
    moved: int | None = None


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """One query before and after reranking.

    Attributes:
      text: as typed.
      count: how often it was asked.
      judged: something is known to be relevant.
      verdict: what reranking did.
      fast_rank, final_rank: of the first relevant item; None when it is not among the candidates.
      fast, final: the first few results, and the first relevant one where it lies further down;
        `final` is empty when there is no reranking.
    """

    text: str
    count: int
    judged: bool
    verdict: Verdict
    fast_rank: int | None
    final_rank: int | None
    fast: tuple[Result, ...]
    final: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """One more measured number: `fast` and, where it applies, `reranked`, already formatted."""

    name: str
    fast: str
    reranked: str = ""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model: what the config calls it and the fingerprint of what was loaded."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class GateLine:
    """One gate, what it found in words, and examples where it refused."""

    gate: str
    passed: bool
    said: str
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """The whole page.

    Attributes:
      created: UTC, ISO 8601.
      scorer: None without reranking.
      headlines: the key numbers; empty when nothing was measured.
      stages: in the order of the flow; the first is exact search, the last what is served.
      queries, measured: distinct queries, and the judged ones of them that were measured on.
      measured_on: "test": those that tuned nothing; "all": nothing was fitted.
      depth: candidates a query.
      beta, beta_source: of `slow + beta * fast`.
      pair_evaluations, reused_pairs: pairs with a slow score, and those of them that had it from an earlier generation.
      seconds: stage -> seconds of the run that made this generation.
      config: of the dataset, plain values.
      digests: name -> digest.
      versions: library -> version, of the program that wrote the page.
      gates: what was asked of the generation before it was served; empty where nothing was.
      notes: sentences about what could not be shown.
    """

    dataset: str
    number: int
    parent: int | None
    created: str
    encoder: ModelName
    scorer: ModelName | None
    images: int
    videos: int
    seen: int
    rejected: int
    headlines: tuple[Headline, ...]
    stages: tuple[StageQuality, ...]
    losses: tuple[Loss, ...]
    measures: tuple[Measure, ...]
    queries: int
    measured: int
    measured_on: str
    depth: int
    beta: float
    beta_source: str
    pair_evaluations: int
    reused_pairs: int
    items_encoded: int
    index: IndexFacts
    shards: tuple[ShardLedger, ...]
    rejects: tuple[RejectGroup, ...]
    samples: tuple[SampleQuery, ...]
    seconds: dict[str, float]
    config: dict[str, object]
    digests: dict[str, str]
    versions: dict[str, str]
    gates: tuple[GateLine, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether a gate refused it, so that it was not served."""
        return not all(line.passed for line in self.gates)

    @property
    def items(self) -> int:
        """Rows of the embedding tables."""
        return self.images + self.videos
