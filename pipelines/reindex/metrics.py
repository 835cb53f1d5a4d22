"""What a run leaves for Prometheus: a file for node_exporter's textfile collector, whole or not at all.

The file tells how the last run ended, whatever way it did, and what is served. The latter is read from disk after the
run, so that a night that failed changes none of it; the last success is kept from the file that is replaced.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.jobs import layout_of
from pipelines.reindex import publish
from pipelines.reindex.job import STAGES, Stage
from pipelines.reindex.summary import Summary
from schemas.errors import ConfigError, FastslowError, InputError, exit_code
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import IndexManifest

logger = logging.getLogger(__name__)

SUFFIX = ".prom"
"""The collector reads files of this name only."""


class Metric(NamedTuple):
    """A gauge: what it means, and its labels beside `dataset`."""

    help: str
    labels: tuple[str, ...] = ()


SERVED = {
    "fastslow_items": Metric("Items served."),
    "fastslow_rejects": Metric("Samples that the generation served could not take in."),
    "fastslow_index_size_bytes": Metric("Files of the index served, with the vectors beside it."),
    "fastslow_index_recall_ratio": Metric("Recall@k of the index served against exact search, text queries.", ("k",)),
    "fastslow_index_recall_target_ratio": Metric("What index.recall_target asks for.", ("k",)),
    "fastslow_query_recall_ratio": Metric(
        "R@k of the generation served: share of test queries with a relevant item among the k best.",
        ("direction", "side", "k"),
    ),
    "fastslow_generation_number": Metric("Number of the generation served."),
    "fastslow_generation_created_timestamp_seconds": Metric("When the generation served was made."),
}
"""Of what is served when the run is over; nothing before the first generation."""

LAST = {
    "fastslow_last_run_exit_code": Metric(
        "0 done or nothing to do, 1 error, 2 usage, 3 refused, 75 locked, 130 stopped."
    ),
    "fastslow_last_run_timestamp_seconds": Metric("When the last run ended."),
    "fastslow_last_run_duration_seconds": Metric("How long the last run took."),
    "fastslow_last_run_stage_duration_seconds": Metric("Likewise, of stages that had work to do.", ("stage",)),
    "fastslow_last_success_timestamp_seconds": Metric("When a run last found or made everything up to date; 0: never."),
}
"""Of the last run, however it ended."""


class Figure(NamedTuple):
    """One line of the file; `labels` without `dataset`."""

    name: str
    labels: dict[str, str]
    value: float


@dataclass
class Record:
    """What is known of a run while it goes on: its job, once the command line is understood, and how far it came."""

    job: Job | None = None
    summary: Summary | None = None

    def begin(self, job: Job) -> Summary:
        """The summary for the run to fill."""
        self.job, self.summary = job, Summary(job.dataset.name)
        return self.summary


@contextmanager
def recorded(path: str | None, dataset: str, root: str, *, until: Stage) -> Iterator[Record]:
    """Writes the metrics of what runs within the block, however it ends; without a path it only keeps the record.

    Args:
      path: a local file that ends in ".prom", in a folder that is there.
      dataset, root: as given on the command line, for runs that end before they are a job.
      until: the verb. Only a run that goes as far as publishing counts as a success of the whole.

    Raises:
      ConfigError: no collector would read a file of this name, or its folder is not there.
      InputError: the run is done, and its metrics cannot be written. (Of a run that failed, its own error is raised.)
    """
    record, start = Record(), time.monotonic()
    if path is None:
        yield record
        return
    _refuse(path)
    try:
        yield record
    except BaseException as error:
        try:
            _write(path, record, dataset, root, until, exit_code(error), time.monotonic() - start)
        except InputError as unwritten:
            logger.error("%s", unwritten)  # noqa: TRY400 - what failed the run is the news
        raise
    _write(path, record, dataset, root, until, exit_code(None), time.monotonic() - start)


def _refuse(path: str) -> None:
    if "://" in path or not path.endswith(SUFFIX):
        raise ConfigError(
            f"--metrics {path}: expected a local file that ends in {SUFFIX}; node_exporter reads no others"
        )
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"--metrics {path}: there is no folder {Path(path).absolute().parent}; make it first")


def _write(path: str, record: Record, dataset: str, root: str, until: Stage, code: int, seconds: float) -> None:
    there = read(path)
    name = record.job.layout.dataset if record.job else _name(dataset, root, there)
    before = there.get(name, [])
    try:
        figures = list(_served(Layout(root, name), record.job))
    except Exception as error:  # noqa: BLE001 - a store out of reach may raise anything; how the run ended is still told
        logger.warning("%s: what is served cannot be read (%s); the metrics keep what they said", name, error)
        figures = [one for one in before if one.name in SERVED and one.labels.keys() == {*SERVED[one.name].labels}]
    complete = code == 0 and STAGES.index(until) >= STAGES.index("publish")
    figures += _last(record.summary, code, seconds, time.time() if complete else _success(before + figures))
    try:
        _replace(path, name, figures)
    except OSError as error:
        raise InputError(
            f"--metrics {path}: cannot be written ({error}); the run itself ended with exit code {code}"
        ) from error


def _name(dataset: str, root: str, there: Mapping[str, object]) -> str:
    """Of the dataset; where its config cannot be read, the one that the file is about."""
    try:
        return layout_of(dataset, root).dataset
    except FastslowError:
        return next(iter(there), Path(dataset).stem)


def _served(layout: Layout, job: Job | None) -> Iterator[Figure]:
    """What readers get.

    Raises:
      InputError: a manifest is missing or damaged.
    """
    served = publish.served(layout)
    if served is None:
        return
    index = IndexManifest.read(f"{layout.root}/{served.index}")
    asked = job.dataset.index if job else index
    yield Figure("fastslow_items", {}, served.counts.embedded)
    yield Figure("fastslow_rejects", {}, served.counts.rejected)
    yield Figure("fastslow_index_size_bytes", {}, index.size_bytes + index.beside_bytes)
    yield Figure("fastslow_index_recall_ratio", {"k": f"{index.recall_k}"}, index.recall)
    yield Figure("fastslow_index_recall_target_ratio", {"k": f"{asked.recall_k}"}, asked.recall_target)
    yield from _quality(served.metrics)
    yield Figure("fastslow_generation_number", {}, served.number)
    created = datetime.fromisoformat(served.created).timestamp()
    yield Figure("fastslow_generation_created_timestamp_seconds", {}, created)


def _quality(metrics: dict[str, Any]) -> Iterator[Figure]:
    """Keys as in pipelines/evaluate/job.py."""
    forward = metrics.get("text_to_image") or {}
    sides: dict[tuple[str, str], dict[str, float] | None] = {
        ("text_to_image", "fast"): forward.get("fast"),
        ("text_to_image", "reranked"): forward.get("reranked"),
        ("image_to_text", "fast"): metrics.get("image_to_text"),
    }
    for (direction, side), found in sides.items():
        for k in ("1", "5", "10"):
            if found:
                labels = {"direction": direction, "side": side, "k": k}
                yield Figure("fastslow_query_recall_ratio", labels, found[f"R@{k}"])


def _last(summary: Summary | None, code: int, seconds: float, success: float) -> Iterator[Figure]:
    yield Figure("fastslow_last_run_exit_code", {}, code)
    yield Figure("fastslow_last_run_timestamp_seconds", {}, time.time())
    yield Figure("fastslow_last_run_duration_seconds", {}, seconds)
    for stage, spent in (summary.seconds if summary else {}).items():
        yield Figure("fastslow_last_run_stage_duration_seconds", {"stage": stage}, spent)
    yield Figure("fastslow_last_success_timestamp_seconds", {}, success)


def _success(known: Sequence[Figure]) -> float:
    """When the last success was, as far as is known: a generation that is served was one, too."""
    names = ("fastslow_last_success_timestamp_seconds", "fastslow_generation_created_timestamp_seconds")
    return max((figure.value for figure in known if figure.name in names), default=0.0)


def read(path: str) -> dict[str, list[Figure]]:
    """What a file says, by dataset; nothing where there is none, or what is there is not metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        logger.warning("%s: not metrics (%s); the last success is derived from what is served", path, error)
        return {}
    found: dict[str, list[Figure]] = {}
    for sample in chain.from_iterable(family.samples for family in families):
        labels = dict(sample.labels)
        found.setdefault(labels.pop("dataset", ""), []).append(Figure(sample.name, labels, sample.value))
    return found


def _replace(path: str, dataset: str, figures: Sequence[Figure]) -> None:
    """Raises: OSError."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    for name, metric in (SERVED | LAST).items():
        mine = [figure for figure in figures if figure.name == name]
        if mine:
            gauge = Gauge(name, metric.help, ("dataset", *metric.labels), registry=registry)
            for figure in mine:
                gauge.labels(dataset=dataset, **figure.labels).set(figure.value)
    write_to_textfile(path, registry)  # a file beside it, renamed
