"""Every file that a generation names, directly or through the manifests it names."""

from schemas.commits import exists
from schemas.embeddings import part_url
from schemas.errors import InputError
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
    parts = [f"{root}/{part}" for part in generation.embeddings]
    for url, manifest in zip(parts, EmbeddingManifest.read_all(parts), strict=True):
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
    if manifest.tombstones is not None:
        found.add(manifest.tombstones.url(url))
    if manifest.lineage is not None:
        trained = f"{layout.trained(manifest.lineage.trained)}/manifest.json"
        found |= {trained, TrainedManifest.read(trained).data.url(trained)}
    return found
