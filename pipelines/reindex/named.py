"""Every file that a generation names, directly or through the manifests it names."""

import fsspec

from schemas.commits import exists
from schemas.embeddings import part_url
from schemas.layout import Layout
from schemas.manifests import (
    CandidatesManifest,
    EmbeddingManifest,
    Generation,
    IndexManifest,
    QueriesManifest,
    RankingsManifest,
    TrainedManifest,
)


def named(layout: Layout, generation: Generation) -> set[str]:
    """URLs of all files a reader of the generation may open, the manifests among them.

    Raises:
      InputError: a manifest is gone or damaged.
    """
    root = layout.root
    found = {layout.generation(generation.number)}
    for url in (f"{root}/{part}" for part in generation.embeddings):
        manifest = EmbeddingManifest.read(url)
        found |= {url, part_url(url, manifest), manifest.rejects.url(url)}
    url = f"{root}/{generation.queries}"
    found |= {url, QueriesManifest.read(url).data.url(url)}
    found |= _of_index(layout, f"{root}/{generation.index}")
    if generation.candidates is not None:
        url = f"{root}/{generation.candidates}"
        found |= {url, CandidatesManifest.read(url).data.url(url)}
    if generation.rankings is not None:
        url = f"{root}/{generation.rankings}"
        rankings = RankingsManifest.read(url)
        folder = url.rsplit("/", 1)[0]
        found |= {url, rankings.data.url(url), rankings.judgements.url(url), f"{folder}/metrics.json"}
    return found


def missing(layout: Layout, generation: Generation) -> list[str]:
    """Those of them that are not there; a manifest that cannot be read stands for all it names."""
    from schemas.errors import InputError

    try:
        return sorted(url for url in named(layout, generation) if not exists(url))
    except InputError as error:
        return [str(error)]


def _of_index(layout: Layout, url: str) -> set[str]:
    """Its manifest, tuning and times; the files of its segments, wherever they lie; what it was trained to."""
    manifest = IndexManifest.read(url)
    folder = url.rsplit("/", 1)[0]
    found = {url, f"{folder}/tuning.json", f"{folder}/timings.json"}
    for segment in manifest.segments:
        found |= {entry.url(url) for entry in (segment.lists, segment.ids, *segment.vectors)}
    found.add(manifest.truth.url(url))
    if manifest.dead is not None:
        found.add(manifest.dead.url(url))
    if manifest.lineage is not None:
        trained = f"{layout.trained(manifest.lineage.trained)}/manifest.json"
        found |= {trained, TrainedManifest.read(trained).data.url(trained)}
    return found


def listing(layout: Layout) -> dict[str, float]:
    """All files of the dataset below the root that runs have made, with the time they were written (seconds).

    Prepared shards and small memos are not among them: they belong to no generation.
    """
    kinds = (
        "cache/truth",
        "embeddings",
        "queries",
        "trained",
        "indexes",
        "candidates",
        "scores",
        "rankings",
        "generations",
        "reports",
    )
    found: dict[str, float] = {}
    for kind in kinds:
        fs, path = fsspec.core.url_to_fs(f"{layout.root}/{kind}/{layout.dataset}")
        if not fs.exists(path):
            continue
        prefix = path.rstrip("/")
        for name, facts in fs.find(path, detail=True).items():
            below = name[len(prefix) :].lstrip("/")
            found[f"{layout.root}/{kind}/{layout.dataset}/{below}"] = _written(facts)
    return found


def _written(facts: dict[str, object]) -> float:
    """When a file was written, in seconds since 1970; 0 where the store does not say."""
    from datetime import datetime

    value = facts.get("mtime") or facts.get("LastModified") or facts.get("updated") or facts.get("created") or 0.0
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(str(value))
