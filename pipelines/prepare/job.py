"""What a dataset config says about where shards come from, done: generated, fetched, or already there."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from pipelines import progress
from pipelines.prepare import shard_writer
from schemas.commits import exists
from schemas.configs import PrepareCoco, PrepareDemo
from schemas.errors import ConfigError
from schemas.jobs import Job
from schemas.manifests import PreparedManifest


@dataclass(frozen=True)
class Prepared:
    """The job's input.

    Attributes:
      shards: URLs or patterns.
      queries: URL of the query log; None: the captions of the items.
    """

    shards: tuple[str, ...]
    queries: str | None


def run(job: Job) -> Prepared:
    """Makes what the dataset config's `prepare` describes, unless it is there; at once when it is.

    Shards named in the config (or on the command line) are taken as they are, and nothing is prepared. A query log
    named in the config is preferred to the prepared one.

    Raises:
      ConfigError: neither shards nor `prepare` are given.
      InputError: what is needed cannot be found or fetched.
    """
    folder = _folder(job)
    if folder is None:
        return Prepared(job.dataset.shards, job.dataset.queries.log)
    if not exists(shard_writer.manifest_url(folder)):
        _prepare(job)
    manifest = PreparedManifest.read(shard_writer.manifest_url(folder))
    shards = tuple(f"{folder}/{entry.name}" for entry in manifest.shards)
    return Prepared(shards, job.dataset.queries.log or f"{folder}/{manifest.queries.name}")


def pending(job: Job) -> bool:
    """Whether `run` would write anything; reads the root, writes nothing.

    Raises:
      ConfigError: neither shards nor `prepare` are given.
    """
    folder = _folder(job)
    return folder is not None and not exists(shard_writer.manifest_url(folder))


def _folder(job: Job) -> str | None:
    """Where the prepared shards are or will be; None when the config names shards of its own."""
    if job.dataset.shards:
        return None
    return shard_writer.prepared_folder(job.layout, _identity(job))


def _identity(job: Job) -> dict[str, Any]:
    config = job.dataset.prepare
    if isinstance(config, PrepareDemo):
        return config.model_dump(mode="json")
    if isinstance(config, PrepareCoco):
        from pipelines.prepare.coco import config_identity

        return config_identity(config)
    raise ConfigError(
        f"dataset {job.dataset.name}: expected shards; set `shards` in its config, or pass --shards 'path/*.tar'"
    )


def _prepare(job: Job) -> None:
    config = job.dataset.prepare
    if isinstance(config, PrepareDemo):
        from pipelines.prepare.demo import prepare_demo

        with progress.watch("prepare", total=config.images + config.videos, unit="items"):
            prepare_demo(config, job.layout, progress=progress.advance)
    elif isinstance(config, PrepareCoco):
        from pipelines.prepare import coco

        with _Downloads() as downloads:
            archives = coco.find_archives(config, job.layout, progress=downloads)
        plan = coco.plan_coco(config, archives)
        with progress.watch("prepare", total=len(plan.entries), unit="images"):
            coco.write_coco(config, plan, job.layout, progress=progress.advance)


class _Downloads:
    """Shows each archive as it comes in, in megabytes; one that is there already is not shown."""

    def __init__(self) -> None:
        self._shown = ExitStack()
        self._name = ""
        self._megabytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def __call__(self, name: str, have: int, total: int | None) -> None:
        """See pipelines.prepare.coco.DownloadProgress."""
        megabytes = have // 1_000_000
        if name != self._name:
            self._shown.close()
            self._name, self._megabytes = name, 0
            whole = None if total is None else total // 1_000_000
            self._shown.enter_context(progress.watch(f"download {name}", total=whole, unit="MB"))
        progress.advance(megabytes - self._megabytes)  # negative where a download starts over
        self._megabytes = megabytes
