"""The generations of a dataset, and the way back: serve an older one, whose files are all still there."""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.reindex import publish
from pipelines.reindex.gates import read_results
from pipelines.reindex.lock import locked
from pipelines.reindex.named import missing
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.manifests import Generation


@dataclass(frozen=True)
class Entry:
    """One generation.

    Attributes:
      number, parent, created: as in its manifest.
      items: it serves, or would.
      r1: of the order that is served, on test queries; None where nothing was judged.
      index: its manifest, below the root.
      served: whether it is the one.
      refused: by a gate.
    """

    number: int
    parent: int | None
    created: str
    items: int
    r1: float | None
    index: str
    served: bool
    refused: bool

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def generations(layout: Layout) -> list[Entry]:
    """All that were written, the newest first."""
    now = publish.current(layout)
    found = [Generation.read(layout.generation(number)) for number in reversed(publish.numbers(layout))]
    return [
        Entry(
            number=one.number,
            parent=one.parent,
            created=one.created,
            items=one.counts.embedded,
            r1=_final_r1(one.metrics),
            index=one.index,
            served=one.number == now,
            refused=_refused(layout, one.number),
        )
        for one in found
    ]


def _final_r1(metrics: dict[str, Any]) -> float | None:
    """R@1 of the order that is served, None when nothing was judged."""
    figures = metrics.get("text_to_image", {})
    value = figures.get("reranked", figures.get("fast", {})).get("R@1")
    return float(value) if value is not None else None


def _refused(layout: Layout, number: int) -> bool:
    results = read_results(layout, number)
    return results is not None and not results.passed


def rollback(layout: Layout, number: int | None = None, *, dry_run: bool = False) -> int:
    """Serves another generation; nothing else is changed, so the way forward is the same command.

    Args:
      number: None: the one that was served before the present one.
      dry_run: only look whether it could be.

    Returns:
      The number served now, or that would be.

    Raises:
      InputError: there is no such generation, it was refused by a gate, or some of its files are gone.
      BusyError: a run is at work on the dataset.
    """
    with locked(layout, "fastslow rollback"):
        now = publish.current(layout)
        if now is None:
            raise InputError(f"{layout.current()}: nothing is published yet; run: fastslow reindex {layout.dataset}")
        if number is None:
            number = Generation.read(layout.generation(now)).parent
        if number is None:
            raise InputError(f"{layout.dataset}: generation {now} is the first, there is none before it")
        publish.refuse_unknown(layout, number)
        if _refused(layout, number):
            raise InputError(
                f"{layout.dataset}: generation {number} was refused by a gate, see {layout.report(number)}; to serve "
                "it all the same, raise the limit in the `publish` part of the config and run reindex"
            )
        gone = missing(layout, Generation.read(layout.generation(number)))
        if gone:
            raise InputError(
                f"{layout.dataset}: generation {number} cannot be served: {len(gone)} of its files are gone, {gone[0]} "
                "among them"
            )
        if not dry_run:
            publish.serve(layout, number, expected=now)
    return number
