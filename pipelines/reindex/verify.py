"""Checks what is published, reading only: files by their digests, manifests by each other, some items from the start.

What is looked at is what a search may open (see `named`). Memory: 8 bytes an item, and one part at a time.
"""

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import fsspec
import numpy as np

from pipelines import progress
from pipelines.index.levels import read_ids
from pipelines.index.parts import ids_of
from pipelines.index.search import local_file, open_tombstones
from pipelines.reindex import agreement, named, sampled
from pipelines.runners.apart import run_apart
from schemas.commits import read_json
from schemas.configs import DatasetConfig, parse
from schemas.digests import digest_file
from schemas.embeddings import VECTOR
from schemas.errors import FastslowError, InputError
from schemas.layout import Layout
from schemas.manifests import EmbeddingManifest, FileEntry, Generation, IndexManifest, Manifest

AGREEMENT = 0.99
"""Least cosine of a vector made again with the stored one: another machine or batch changes its last bits."""

Found = tuple[str, list[str]]
"""What was measured, and what is wrong."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
      name: of the check.
      state: "not run" where an earlier one left nothing to look at.
      figure: what was measured.
      problems: each with its item and what was expected.
      remedy: the way out; "" where all is well.
    """

    name: str
    state: Literal["ok", "FAILED", "not run"]
    figure: str
    problems: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Verified:
    """What became of all checks of one generation; `seed` drew the items."""

    dataset: str
    generation: int
    seed: int
    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if check.state == "FAILED"]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {**asdict(self), "failed": self.failed}

    def refuse(self) -> None:
        """Passes silently where all is well.

        Raises:
          InputError: a check failed.
        """
        if self.failed:
            raise InputError(f"generation {self.generation} of {self.dataset} is damaged: {', '.join(self.failed)}")


def run(layout: Layout, generation: Generation, *, items: int, seed: int | None = None) -> Verified:
    """Looks at everything once; a check that fails does not stop the others. Writes nothing but memos.

    Args:
      items: to be drawn, encoded and searched for again; 0: files and manifests alone.
      seed: of the draw; None: the generation's number.
    """
    seed = generation.number if seed is None else seed
    found, unreadable = named.manifests(layout, generation)
    again = f"fastslow reindex {layout.dataset}"
    back = f"meanwhile fastslow rollback {layout.dataset} may serve the generation before"
    remake = f"remove the manifest named (of a trained index, that of the index too) and run {again}; {back}"
    checks = [
        _check("manifests", f"run {again}; {back}", lambda: (f"{len(found)} read", unreadable)),
        _check("files", remake, partial(_files, layout, generation, found)),
    ]
    if unreadable:
        rest = ["agreement", "ids", *(["pictures", "vectors", "self-retrieval"] if items else [])]
        checks += [Check(name, "not run", "a manifest cannot be read") for name in rest]
        return Verified(layout.dataset, generation.number, seed, tuple(checks))
    [(index, _)] = named.of_kind(found, IndexManifest)
    rebuild = f"remove {index} and run {again}; {back}"
    checks += [
        _check("agreement", remake, partial(_agreement, generation, found)),
        _check("ids", rebuild, partial(_ids, found)),
    ]
    if items:
        checks += _of_items(layout, generation, found, items, seed, again=again, rebuild=rebuild)
    return Verified(layout.dataset, generation.number, seed, tuple(checks))


def _check(name: str, remedy: str, look: Callable[[], Found]) -> Check:
    """The outcome of one check; that it cannot be made is a failure, too."""
    try:
        figure, problems = look()
    except (FastslowError, OSError) as error:
        figure, problems = "could not be looked at", [str(error)]
    if problems:
        return Check(name, "FAILED", figure, tuple(problems), remedy)
    return Check(name, "ok", figure)


def _files(layout: Layout, generation: Generation, found: Mapping[str, Manifest]) -> Found:
    """Size and SHA-256 of every data file; files without a digest are JSON that can be read."""
    entries = named.entries(found)
    total = sum(entry.size_bytes for entry, _ in entries.values())
    with (
        progress.watch(f"verify {layout.dataset}", total=total, unit="files"),
        ThreadPoolExecutor(os.cpu_count()) as pool,  # SHA-256 and reads release the GIL
    ):
        problems = [problem for problem in pool.map(_damage, entries.items()) if problem]
    for url in named.measured(layout, generation):
        try:
            read_json(url)
        except InputError as error:
            problems.append(str(error))
    return f"{len(entries):,} files, {total / 1e6:,.1f} MB", problems


def _damage(file: tuple[str, tuple[FileEntry, str]]) -> str | None:
    url, (entry, manifest) = file
    fs, path = fsspec.core.url_to_fs(url)
    try:
        size = int(fs.size(path) or 0)
        digest = digest_file(url) if size == entry.size_bytes else ""
    except FileNotFoundError:
        return f"{url}: gone, {manifest} names it"
    except OSError as error:
        return f"{url}: cannot be read ({error})"
    progress.advance(1, entry.size_bytes)
    if size != entry.size_bytes:
        return f"{url}: {size} bytes, {manifest} says {entry.size_bytes}"
    if digest != entry.sha256:
        return f"{url}: SHA-256 is {digest[:16]}..., {manifest} says {entry.sha256[:16]}..."
    return None


def _agreement(generation: Generation, found: Mapping[str, Manifest]) -> Found:
    facts = agreement.facts(generation, found)
    wrong = [f"{what}: {said}, expected {wanted}" for what, said, wanted in facts if said != wanted]
    return f"{len(facts)} facts of {len(found) + 1} manifests", wrong


def _ids(found: Mapping[str, Manifest]) -> Found:
    """The live items of the index are those of the parts, each once."""
    [(url, index)] = named.of_kind(found, IndexManifest)
    problems: list[str] = []
    live = [np.empty(0, np.int64)]
    for segment, deleted in zip(index.segments, open_tombstones(index, url), strict=True):
        ids = np.asarray(read_ids(local_file(segment.ids.url(url), segment.ids)))
        if (ids[1:] <= ids[:-1]).any():
            problems.append(f"{segment.ids.url(url)}: expected item ids that rise")
        live.append(ids[~np.isin(ids, deleted)])
    indexed, times = np.unique(np.concatenate(live), return_counts=True)
    wanted = ids_of([part for part, _ in named.of_kind(found, EmbeddingManifest)])
    for what, ids in (
        ("twice in the index", indexed[times > 1]),
        ("in the parts, not in the index", np.setdiff1d(wanted, indexed)),
        ("in the index, in no part", np.setdiff1d(indexed, wanted)),
    ):
        if len(ids):
            problems.append(f"{len(ids):,} items are {what}, the first of them {ids[0]}")
    return f"{len(wanted):,} items", problems


def _of_items(
    layout: Layout,
    generation: Generation,
    found: Mapping[str, Manifest],
    count: int,
    seed: int,
    *,
    again: str,
    rebuild: str,
) -> list[Check]:
    """The checks that take single items."""
    parts = [url for url, _ in named.of_kind(found, EmbeddingManifest)]
    [(index_url, index)] = named.of_kind(found, IndexManifest)
    try:
        embed = parse(DatasetConfig, generation.config, source=layout.generation(generation.number)).embed
        sample = sampled.draw(parts, count, seed=seed)
    except (FastslowError, OSError) as error:
        failed = Check("pictures", "FAILED", "no item could be drawn", (str(error),), "see files")
        return [failed, *(Check(name, "not run", "no item could be drawn") for name in ("vectors", "self-retrieval"))]
    total = len(sample.items)

    def pictures() -> Found:
        gone = sampled.unreadable(sample, embed)
        return f"{total - len(gone)} of {total} as they were embedded", gone

    def vectors() -> Found:
        cosines = run_apart(sampled.cosines, layout, generation.number, sample, embed)
        least = min((value for value in cosines.values() if isinstance(value, float)), default=math.nan)
        wrong = [
            f"{key}: {value if isinstance(value, str) else f'cosine {value:.4f}, expected {AGREEMENT} or more'}"
            for key, value in cosines.items()
            if isinstance(value, str) or not value >= AGREEMENT
        ]
        figure = f"{len(cosines)} encoded again, cosine {least:.4f} or more"
        return figure, wrong if cosines else ["no picture could be read"]

    def self_retrieval() -> Found:
        columns = index.levels.columns if index.levels else (VECTOR,)
        queries = [sample.vectors[column] for column in columns]
        lost = run_apart(sampled.lost, index_url, parts, queries, sample.ids, index.recall_k)
        needed = sampled.fewest(index.self_recall, total)
        figure = f"{total - len(lost)} of {total} among the first {index.recall_k}, {needed} expected"
        keys = [f"{sample.items[number].key}: not among the {index.recall_k} that its vector finds" for number in lost]
        return figure, keys if total - len(lost) < needed else []

    changed = f"put the shards back as they were, or run {again} to take in what is there now"
    embed_again = f"run fastslow doctor; if all is well here, remove {parts[0].rsplit('/', 1)[0]} and run {again}"
    return [
        _check("pictures", changed, pictures),
        _check("vectors", embed_again, vectors),
        _check("self-retrieval", rebuild, self_retrieval),
    ]
