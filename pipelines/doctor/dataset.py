"""What a run would read: the shards, a few of them from end to end, and the query log."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import fsspec

from pipelines.doctor.finding import Finding, error, ok, warning
from pipelines.index.proposal import human
from pipelines.prepare import job as prepare
from pipelines.webdataset.samples import ReadCounts, read_samples
from pipelines.webdataset.shards import expand
from schemas.configs import DatasetConfig
from schemas.errors import FastslowError
from schemas.jobs import Job
from schemas.query_logs import distinct, read_rows
from schemas.rejects import Reject

MORE = 3
"""Shards read besides the first and the last."""


class Inputs(NamedTuple):
    """What was found.

    Attributes:
      findings: of shards and query log.
      shards: URLs; none where they are still to be prepared or cannot be found.
      size_bytes: of all shards, from those that were read; 0 where that is not known.
    """

    findings: list[Finding]
    shards: Sequence[str] = ()
    size_bytes: int = 0


class _Read(NamedTuple):
    """What is in a shard: `captioned` samples have a caption; `broken` says where it breaks off."""

    url: str
    size_bytes: int
    counts: ReadCounts
    captioned: int
    broken: str
    refused: str


def look(job: Job, *, seed: int = 0) -> Inputs:
    """Finds the shards, reads the first, the last and a few between, and the query log.

    Args:
      seed: chooses those between.
    """
    try:
        if prepare.pending(job):
            kind = job.dataset.prepare.kind if job.dataset.prepare else ""
            made = ok("shards", f"to be prepared ({kind}) into {job.layout.shards()}")
            return Inputs([made, *_log(job.dataset, job.dataset.queries.log, [])])
        prepared = prepare.run(job)
        shards = expand(prepared.shards)
    except FastslowError as problem:
        return Inputs([error("shards", str(problem))])
    between = random.Random(seed).sample(shards[1:-1], min(MORE, max(0, len(shards) - 2)))
    chosen = list(dict.fromkeys([shards[0], *between, shards[-1]]))
    with ThreadPoolExecutor(len(chosen)) as pool:  # reading waits for the disk or the network
        read = list(pool.map(lambda url: _read(url, job.dataset), chosen))
    size = len(shards) * sum(one.size_bytes for one in read) // len(read)
    return Inputs([_shards(shards, read, size, job.dataset), *_log(job.dataset, prepared.queries, read)], shards, size)


def _shards(shards: Sequence[str], read: Sequence[_Read], size: int, config: DatasetConfig) -> Finding:
    samples, rejects = (sum(getattr(one.counts, name) for one in read) for name in ("samples", "rejects"))
    found = f"{len(shards):,} shards, about {human(size)}; {len(read)} of them read, {samples:,} samples"
    bad = [one for one in read if one.broken]
    if bad:
        others = f" (and {len(bad) - 1} more of {len(read)} that were read)" if len(bad) > 1 else ""
        return error("shards", f"{bad[0].url}{others}: {bad[0].broken}", "fetch or pack it again")
    empty = [one for one in read if not one.counts.samples]
    if empty:
        members = f"{empty[0].counts.members:,} members, no picture or video with a key"
        return error("shards", f"{empty[0].url}: {members}", "members are <key>.jpg, <key>.txt: docs/bring-your-own.md")
    if rejects > config.embed.max_reject_fraction * (samples + rejects):
        example = next(one.refused for one in read if one.refused)
        limit = f"embed.max_reject_fraction is {config.embed.max_reject_fraction:g}"
        return warning("shards", f"{found}, {rejects:,} refused, such as: {example}", f"repair them: {limit}")
    return ok("shards", f"{found}, {rejects:,} refused")


def _read(url: str, config: DatasetConfig) -> _Read:
    counts, captioned, broken, refused = ReadCounts(), 0, "", ""
    fs, path = fsspec.core.url_to_fs(url)
    samples = read_samples(
        url,
        shard=url.rsplit("/", 1)[-1],
        captions=config.captions,
        key_scope=config.key_scope,
        embed=config.embed,
        counts=counts,
    )
    try:
        for item in samples:
            if not isinstance(item, Reject):
                captioned += bool(item.captions)
            elif item.position < 0:
                broken = item.message
            else:
                refused = refused or item.message
    except (FastslowError, OSError) as problem:
        broken = str(problem)
    return _Read(url, int(fs.size(path) or 0), counts, captioned, broken, refused)


def _log(config: DatasetConfig, url: str | None, read: Sequence[_Read]) -> list[Finding]:
    """The query log; without one, queries are the captions."""
    if url is None:
        if not read:
            return []
        if any(one.captioned for one in read):
            return [ok("queries", "the captions of the items")]
        return [
            error(
                "queries",
                f"they are the captions of the items, and of {len(read)} shards read no sample has one",
                "--queries LOG, or name the captions' members and fields in the dataset config",
            )
        ]
    try:
        queries = distinct(read_rows(url), source=url, fit_fraction=config.queries.fit_fraction)
    except FastslowError as problem:
        return [error("queries", str(problem))]
    if not queries:
        return [error("queries", f"{url}: no query in it", "--queries LOG, a tsv, jsonl or Parquet file with a text")]
    fit = sum(query.split == "fit" for query in queries)
    return [ok("queries", f"{url}: {len(queries):,} distinct, {fit:,} of them to fit on")]
