"""What a generation must satisfy before it is served; a refused one stays on disk and the old one is served on."""

from typing import Any

from schemas.configs import DatasetConfig
from schemas.errors import GateError
from schemas.manifests import Counts, Generation, IndexManifest


def check(
    config: DatasetConfig,
    *,
    counts: Counts,
    index: IndexManifest,
    metrics: dict[str, Any],
    served: Generation | None,
) -> None:
    """Passes silently or refuses.

    Raises:
      GateError: which gate, the figure, the limit, and what to do.
    """
    if counts.embedded == 0:
        raise GateError(f"{config.name}: no item was embedded ({counts.rejected} rejected); nothing to serve")
    if index.rows != counts.embedded:
        raise GateError(f"{config.name}: the index holds {index.rows} items, {counts.embedded} were embedded")
    if index.recall < config.index.recall_target:
        raise GateError(
            f"{config.name}: recall@{index.recall_k} of the index is {index.recall:.3f}, "
            f"the target {config.index.recall_target}"
        )
    before, now = final_r1(served.metrics) if served else None, final_r1(metrics)
    if before is not None and now is not None and now < before - config.publish.max_r1_drop:
        raise GateError(
            f"{config.name}: R@1 fell from {before:.3f} (generation {served.number if served else 0}) to {now:.3f}, "
            f"more than publish.max_r1_drop={config.publish.max_r1_drop} allows; the old generation is still served. "
            "See the report; to accept the drop raise publish.max_r1_drop"
        )


def final_r1(metrics: dict[str, Any]) -> float | None:
    """R@1 of the order that is served, None when nothing was judged."""
    figures = metrics.get("text_to_image", {})
    value = figures.get("reranked", figures.get("fast", {})).get("R@1")
    return float(value) if value is not None else None
