"""What a run says of itself: the steps of a plan, and the closing summary; plain values, for tables and for JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from schemas.manifests import Counts, IndexManifest

INDEX_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("key", "parameters", "rows", "recall", "recall_k", "recall_target"), True),
    "levels": {"dims", "shortlist", "coarse_recall", "macs", "flat_macs"},
}
"""What is said of the index."""


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
      stage: its verb.
      state: "done" is skipped, "to do" runs, "after" cannot be known before an earlier stage has run.
      detail: what it amounts to.
    """

    stage: str
    state: Literal["done", "to do", "after"]
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


@dataclass
class Summary:
    """The end of a run; parts not reached are None.

    Attributes:
      seconds: stage -> wall-clock seconds in this run; a stage that was done before is not in it.
      published: the generation that this run published, None when nothing changed.
      generation: the one being served at the end.
      metrics: as pipelines/evaluate/job.py documents them.
    """

    dataset: str
    seconds: dict[str, float] = field(default_factory=dict)
    counts: Counts | None = None
    index: IndexManifest | None = None
    metrics: dict[str, Any] | None = None
    generation: int | None = None
    published: int | None = None
    report: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "dataset": self.dataset,
            "seconds": {stage: round(value, 2) for stage, value in self.seconds.items()},
            "counts": self.counts.model_dump() if self.counts else None,
            "index": self.index.model_dump(mode="json", include=INDEX_FIELDS) if self.index else None,
            "metrics": self.metrics,
            "generation": self.generation,
            "published": self.published,
            "report": self.report,
        }
