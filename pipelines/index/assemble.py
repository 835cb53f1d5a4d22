"""The files of an index: segments merged from partial indexes, or those of a base beside what changed since.

All is made in a local folder, under the names it will have beside the manifest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.index import build
from pipelines.index.levels import read_ids, write_levels
from pipelines.index.lists import merge_lists, open_lists, sizes_of
from pipelines.index.partial import PlannedPartial, data_of
from pipelines.index.parts import Parts, check_ids, ids_of
from pipelines.index.plan import Change, IndexPlan
from pipelines.index.search import local_file, open_tombstones, read_file
from pipelines.index.segments import TABLE, tombstones_schema
from schemas.errors import LedgerError
from schemas.manifests import EmbeddingManifest, FileEntry, PartialManifest, SegmentEntry
from schemas.parquet import write_table

WHOLE, LISTS = "index.faiss", "items.lists"


class Assembled(NamedTuple):
    """What a manifest will name.

    Attributes:
      segments: in the order of the manifest.
      deleted: ids that are no answers, of each.
      files: of each segment the lists, ids and vectors, as local files.
      tombstones: entry of the table of deleted ids; None without any.
      sizes: items in each list, all segments together, deleted ones counted; None for kinds without lists.
    """

    segments: tuple[SegmentEntry, ...]
    deleted: tuple[np.ndarray, ...]
    files: tuple[tuple[Path, Path, tuple[Path, ...]], ...]
    tombstones: FileEntry | None
    sizes: np.ndarray | None


Filled = Callable[[Sequence[str]], Sequence[PlannedPartial]]
"""Embedding manifests -> their partial indexes, each finished."""


def from_partials(plan: IndexPlan, trained: Any, filled: Filled, folder: Path, *, shards: int) -> Assembled:
    """Merges all parts into one segment, or into several of as many parts each.

    Args:
      trained: the trained index, empty.
    """
    groups = [group.tolist() for group in np.array_split(np.array(plan.part_urls), min(shards, len(plan.part_urls)))]
    made = [_segment(plan, trained, filled(group), group, folder, number) for number, group in enumerate(groups)]
    sizes = np.sum([one_sizes for *_, one_sizes in made], axis=0)
    return _assembled([(entry, files, np.empty(0, np.int64)) for entry, files, _ in made], folder, sizes)


def in_one_process(plan: IndexPlan, empty: Any, folder: Path) -> Assembled:
    """Fills a kind without inverted lists."""
    index = build.with_ids(empty)
    build.fill(index, Parts(plan.part_urls, plan.levels[0]))
    if index.ntotal != plan.rows:
        raise LedgerError(f"the index holds {index.ntotal} vectors, the manifests say {plan.rows}")
    build.write(index, folder / WHOLE)
    lists = FileEntry.of(folder / WHOLE, WHOLE, plan.rows)
    entry, files = _described(plan, plan.part_urls, folder, "", lists, error=None)
    return _assembled([(entry, files, np.empty(0, np.int64))], folder, None)


def beside(change: Change, plan: IndexPlan, trained: Any, filled: Filled, folder: Path) -> Assembled:
    """The files of the base, new items in a segment of their own, those that are gone marked deleted."""
    base = change.base.manifest
    deleted = _deleted_after(change)
    removed = {part.data.sha256 for part in EmbeddingManifest.read_all(change.removed)}
    old = []
    for segment, gone in zip(change.built.segments, deleted, strict=True):
        files = _fetched(segment, base)
        kept = tuple(part for part in segment.parts if part not in removed)
        entry = segment.model_copy(update={"deleted": len(gone), "parts": kept})
        old.append((_seen_from(entry, base, plan.folder), files, gone))
    first, *others = old
    entries = [first, *(one for one in others if one[0].live)]  # the first holds what is trained
    if change.built.lineage is None:  # of a kind without lists; only the queries are others
        return _assembled(entries, folder, None)
    sizes = np.sum([_sizes(files[0], whole=not number) for number, (_, files, _) in enumerate(entries)], axis=0)
    if change.added:
        entry, files, more = _segment(plan, trained, filled(change.added), change.added, folder, len(entries))
        entries.append((entry, files, np.empty(0, np.int64)))
        sizes = sizes + more
    return _assembled(entries, folder, sizes)


def refuse_known(change: Change) -> None:
    """Refuses new parts with an item that the base has, and keeps.

    Raises:
      InputError: names the item.
    """
    files = (_fetched(segment, change.base.manifest) for segment in change.built.segments)
    old = [(read_ids(ids), gone) for (_, ids, _), gone in zip(files, _deleted_after(change), strict=True)]
    check_ids(ids_of(change.added), old, change.added)


def mean_error(partials: Sequence[PlannedPartial], parts: Sequence[str]) -> float:
    """Mean quantization error of the items of some parts.

    Args:
      partials: their partial indexes, finished.
      parts: embedding manifests, in the same order.
    """
    rows = np.array([part.data.rows for part in EmbeddingManifest.read_all(parts)])
    errors = np.array([made.error for made in PartialManifest.read_all(one.manifest for one in partials)])
    return round(float((rows * errors).sum() / max(1, rows.sum())), 6)


_Files = tuple[Path, Path, tuple[Path, ...]]


def _assembled(
    made: Sequence[tuple[SegmentEntry, _Files, np.ndarray]], folder: Path, sizes: np.ndarray | None
) -> Assembled:
    entries, files, deleted = zip(*made, strict=True)
    return Assembled(entries, deleted, files, _write_tombstones(deleted, folder), sizes)


def _segment(
    plan: IndexPlan, trained: Any, partials: Sequence[PlannedPartial], parts: Sequence[str], folder: Path, number: int
) -> tuple[SegmentEntry, _Files, np.ndarray]:
    """One segment of some parts; the first holds what is trained, too. Also items in each list."""
    inside = f"{number}/" if number else ""
    (folder / inside).mkdir(exist_ok=True)
    name = LISTS if number else WHOLE
    sizes = merge_lists([data_of(one) for one in partials], folder / inside / name, index=trained, whole=not number)
    rows = sum(part.data.rows for part in EmbeddingManifest.read_all(parts))
    if sizes.sum() != rows:
        raise LedgerError(f"{sizes.sum()} vectors went into a segment of parts with {rows}")
    lists = FileEntry.of(folder / inside / name, name, rows)
    entry, files = _described(plan, parts, folder, inside, lists, error=mean_error(partials, parts))
    return entry, files, sizes


def _described(
    plan: IndexPlan, parts: Sequence[str], folder: Path, inside: str, lists: FileEntry, *, error: float | None
) -> tuple[SegmentEntry, _Files]:
    """Writes ids and levels beside the lists of a segment."""
    ids, vectors = write_levels(parts, plan.levels[1:], folder / inside, refined=plan.refined)
    lists, ids, *others = (
        entry.model_copy(update={"name": f"{inside}{entry.name}"}) for entry in (lists, ids, *vectors)
    )
    digests = tuple(part.data.sha256 for part in EmbeddingManifest.read_all(parts))
    segment = SegmentEntry(lists=lists, ids=ids, vectors=tuple(others), parts=digests, error=error)
    return segment, (folder / lists.name, folder / ids.name, tuple(folder / entry.name for entry in others))


def _deleted_after(change: Change) -> list[np.ndarray]:
    """Deleted ids of each of the base's segments: those of before, and those of the parts removed."""
    deleted = open_tombstones(change.built, change.base.manifest)
    for url in change.removed:
        digest = EmbeddingManifest.read(url).data.sha256
        for number, segment in enumerate(change.built.segments):
            if digest in segment.parts:
                deleted[number] = np.concatenate([deleted[number], ids_of([url])])
    return [np.sort(ids) for ids in deleted]


def _fetched(segment: SegmentEntry, manifest_url: str) -> _Files:
    lists, ids, *vectors = (
        local_file(entry.url(manifest_url), entry) for entry in (segment.lists, segment.ids, *segment.vectors)
    )
    return lists, ids, tuple(vectors)


def _seen_from(segment: SegmentEntry, manifest_url: str, folder: str) -> SegmentEntry:
    """The entry with names that lead from another index's folder beside it to the same files."""
    parent = folder.rsplit("/", 1)[0]

    def renamed(entry: FileEntry) -> FileEntry:
        return entry.model_copy(update={"name": f"../{entry.url(manifest_url).removeprefix(f'{parent}/')}"})

    vectors = tuple(renamed(entry) for entry in segment.vectors)
    return segment.model_copy(update={"lists": renamed(segment.lists), "ids": renamed(segment.ids), "vectors": vectors})


def _sizes(path: Path, *, whole: bool) -> np.ndarray:
    """Items in each list of a segment that is there."""
    import faiss

    if not whole:
        return sizes_of(open_lists(path))
    index = read_file(path)
    return sizes_of(faiss.extract_index_ivf(index).invlists)


def _write_tombstones(deleted: Sequence[np.ndarray], folder: Path) -> FileEntry | None:
    rows = sum(map(len, deleted))
    if not rows:
        return None
    with write_table(str(folder / TABLE), tombstones_schema()) as table:
        table.write(
            {
                "segment": np.repeat(np.arange(len(deleted), dtype=np.int32), [len(ids) for ids in deleted]),
                "item_id": np.concatenate(deleted),
            }
        )
    return FileEntry.of(folder / TABLE, TABLE, rows)
