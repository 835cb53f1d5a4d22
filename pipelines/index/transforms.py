r"""Beam wiring for filling an index. The logic is in partial.py.

PlannedPartial --Spread--> PlannedPartial --Fill--> str (URL of the manifest)

Lists never leave the DoFn: it writes its files itself. FAISS uses all cores of a worker for one part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipelines import progress
from pipelines.index.partial import PlannedPartial, fill_partial
from pipelines.index.trained import Trained, open_trained
from pipelines.runners.run import remembering_errors, run_over
from schemas.commits import exists
from schemas.jobs import Runner


@dataclass
class FillPartials(beam.PTransform):
    """Fills partial indexes, each committed on its own as soon as it is done.

    Input:  PCollection[PlannedPartial], bounded.
    Output: PCollection[str]: URLs of the manifests.
    Parallelism: one embedding part is one element; parts are spread first.
    Counters: fill-partials/parts, fill-partials/parts-skipped (already committed), fill-partials/rows.
    Rerun: a part with a manifest is skipped; a replayed element changes no byte.

    Attributes:
      trained: where the trained index is; every worker reads it once.
    """

    trained: Trained

    def expand(self, parts: beam.PCollection) -> beam.PCollection:
        """Spread, then fill."""
        fill = _FillPartial(self.trained)
        return parts | "Spread" >> beam.Reshuffle() | "Fill" >> beam.ParDo(fill).with_output_types(str)


class _FillPartial(beam.DoFn):
    def __init__(self, trained: Trained) -> None:
        self._trained = trained

    def setup(self) -> None:
        with remembering_errors():
            self._empty = open_trained(self._trained)  # a workbench of its own: instances run side by side

    def process(self, planned: PlannedPartial, *_: Any) -> Iterator[str]:
        skipped = exists(planned.manifest)
        with remembering_errors():
            manifest = fill_partial(planned, self._empty)
        Metrics.counter("fill-partials", "parts-skipped" if skipped else "parts").inc()
        if not skipped:
            Metrics.counter("fill-partials", "rows").inc(manifest.data.rows)
            progress.advance(manifest.data.rows)
        yield planned.manifest


def fill_partials(planned: Sequence[PlannedPartial], trained: Trained, *, runner: Runner) -> dict[str, int]:
    """Runs `FillPartials` and returns its counters; errors as of `run_over`."""
    return run_over(planned, FillPartials(trained), counted="fill-partials", runner=runner)
