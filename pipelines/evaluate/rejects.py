"""What was refused, by stage and reason, with a few samples of each."""

from collections import Counter
from collections.abc import Sequence

from pipelines.evaluate.report_data import RejectExample, RejectGroup
from schemas.manifests import EmbeddingManifest
from schemas.parquet import read_table

EXAMPLES = 3
"""Refused samples shown for every reason."""


def rejects_of(
    urls: Sequence[str], manifests: Sequence[EmbeddingManifest], *, examples_each: int = EXAMPLES
) -> list[RejectGroup]:
    """Rejects by stage and reason, the most frequent first, with the first few of each.

    Args:
      urls: embedding manifests, and what they say.
    """
    totals: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[RejectExample]] = {}
    for url, manifest in zip(urls, manifests, strict=True):
        if not manifest.rejects.rows:
            continue
        table = read_table(manifest.rejects.url(url))
        for row in table.select(["key", "shard", "stage", "error", "message"]).to_pylist():
            reason = row["stage"], row["error"]
            totals[reason] += 1
            some = examples.setdefault(reason, [])
            if len(some) < examples_each:
                some.append(RejectExample(row["key"], row["shard"], row["message"]))
    order = sorted(totals, key=lambda reason: (-totals[reason], reason))
    return [RejectGroup(*reason, totals[reason], tuple(examples[reason])) for reason in order]
