"""Every file that a generation names, directly or through the manifests it names."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from pydantic import BaseModel

from schemas.commits import exists
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.manifests import (
    CandidatesManifest,
    EmbeddingManifest,
    FileEntry,
    Generation,
    IndexManifest,
    Manifest,
    QueriesManifest,
    RankingsManifest,
    TrainedManifest,
)

ManifestType = TypeVar("ManifestType", bound=Manifest)


def named(layout: Layout, generation: Generation) -> set[str]:
    """URLs of all files a reader of the generation may open, the manifests among them.

    Raises:
      InputError: a manifest is gone or damaged.
    """
    found, unreadable = manifests(layout, generation)
    if unreadable:
        raise InputError(unreadable[0])
    return {layout.generation(generation.number), *found, *entries(found), *measured(layout, generation)}


def missing(layout: Layout, generation: Generation) -> list[str]:
    """Those of them that are not there; a manifest that cannot be read stands for all it names."""
    try:
        return sorted(url for url in named(layout, generation) if not exists(url))
    except InputError as error:
        return [str(error)]


def manifests(layout: Layout, generation: Generation) -> tuple[dict[str, Manifest], list[str]]:
    """The manifests that a generation names, by URL, and what is wrong with those that cannot be read."""
    root = layout.root
    wanted: list[tuple[str, type[Manifest]]] = [(f"{root}/{part}", EmbeddingManifest) for part in generation.embeddings]
    wanted += [(f"{root}/{generation.queries}", QueriesManifest), (f"{root}/{generation.index}", IndexManifest)]
    if generation.candidates is not None:
        wanted.append((f"{root}/{generation.candidates}", CandidatesManifest))
    if generation.rankings is not None:
        wanted.append((f"{root}/{generation.rankings}", RankingsManifest))
    found: dict[str, Manifest] = {}
    unreadable: list[str] = []
    for url, kind in wanted:  # grows by what an index was trained to
        try:
            found[url] = manifest = kind.read(url)
        except InputError as error:
            unreadable.append(str(error))
            continue
        if isinstance(manifest, IndexManifest) and manifest.lineage is not None:
            wanted.append((f"{layout.trained(manifest.lineage.trained)}/manifest.json", TrainedManifest))
    return found, unreadable


def entries(found: Mapping[str, Manifest]) -> dict[str, tuple[FileEntry, str]]:
    """The data files that manifests describe, by URL, each with the URL of its manifest."""
    return {entry.url(url): (entry, url) for url, manifest in found.items() for entry in _entries(manifest)}


def of_kind(found: Mapping[str, Manifest], kind: type[ManifestType]) -> list[tuple[str, ManifestType]]:
    """The manifests of a kind with their URLs."""
    return [(url, manifest) for url, manifest in found.items() if isinstance(manifest, kind)]


def measured(layout: Layout, generation: Generation) -> list[str]:
    """URLs of the files that say how good a generation is and how fast; no manifest holds their digests."""
    index = f"{layout.root}/{generation.index}".rsplit("/", 1)[0]
    found = [f"{index}/tuning.json", f"{index}/timings.json"]
    if generation.rankings is not None:
        found.append(f"{layout.root}/{generation.rankings}".rsplit("/", 1)[0] + "/metrics.json")
    return found


def _entries(value: object) -> Iterator[FileEntry]:
    """The files in a manifest, in its fields and in theirs."""
    if isinstance(value, FileEntry):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _entries(getattr(value, name))
    elif isinstance(value, tuple):
        for one in value:
            yield from _entries(one)
