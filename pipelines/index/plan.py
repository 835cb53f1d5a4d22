"""What index would be built of which parts, and whether it is there already; light, so that a rerun takes no time."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from schemas.commits import exists
from schemas.configs import Index
from schemas.digests import digest_value
from schemas.errors import ConfigError, InputError, StaleError
from schemas.jobs import Job
from schemas.manifests import EmbeddingManifest, IndexManifest, QueriesManifest, embedding_set_digest

log = logging.getLogger(__name__)

LEVEL = "embedding"
"""The vector column that orders the answers: the finest, or only, level."""

RECIPE = 4
"""Of everything below that changes an index's bytes or its operating point; raise it when it changes."""


class Base(NamedTuple):
    """An index that is there, and that another may be made of.

    Attributes:
      manifest: its URL.
      parts: embedding manifests it was built of.
    """

    manifest: str
    parts: tuple[str, ...]


class Change(NamedTuple):
    """What became of the parts of a base.

    Attributes:
      base: where it is.
      built: its manifest.
      added, removed: embedding manifests, and of the base, that the other does not have.
    """

    base: Base
    built: IndexManifest
    added: tuple[str, ...]
    removed: tuple[str, ...]


class IndexPlan(NamedTuple):
    """One index to be made.

    Attributes:
      digest: of inputs, config and recipe; names the folder.
      folder: where the index goes.
      manifest_url: exists when the index is finished.
      part_urls: embedding manifests, in the order they are filled in: by content, so that neither the order
        of the arguments nor a file name changes a byte.
      parts: the manifests themselves, in the same order.
      queries_url: manifest of the encoded query log.
      queries: that manifest.
      rows: vectors to index.
      levels: vector columns, coarse to fine; the first is indexed. One alone: a flat search; the same twice: refined.
      dims: their widths.
      change: since an index that this one may be made of; None: from the parts alone.
    """

    digest: str
    folder: str
    manifest_url: str
    part_urls: tuple[str, ...]
    parts: tuple[EmbeddingManifest, ...]
    queries_url: str
    queries: QueriesManifest
    rows: int
    levels: tuple[str, ...]
    dims: tuple[int, ...]
    change: Change | None = None

    @property
    def dim(self) -> int:
        """Width of the vectors that are indexed."""
        return self.dims[0]

    @property
    def refined(self) -> bool:
        """Whether whole vectors order what the index finds among compressed ones."""
        return len(self.levels) == 2 and self.levels[0] == self.levels[1]

    @property
    def embeddings_digest(self) -> str:
        """The name of the set of parts."""
        return embedding_set_digest(list(self.parts))


def plan_index(
    job: Job, embedding_manifest_urls: Sequence[str], queries_manifest_url: str, base: Base | None = None
) -> IndexPlan:
    """Plans an index from manifests alone; nothing else is read.

    Args:
      base: the index being served. Of the same parts and queries it is the plan's own; else, where it was made as this
        one would be, what changed since is worked into it (see `reuse`), unless there is one of these parts already.

    Raises:
      ConfigError: `index.levels` or `index.shortlist` do not fit the encoder.
      InputError: no parts, no rows, no queries, a part given twice, or vectors of different widths.
      StaleError: parts or queries come from different encoders.
    """
    read = list(zip(EmbeddingManifest.read_all(embedding_manifest_urls), embedding_manifest_urls, strict=True))
    read.sort(key=lambda pair: (pair[0].data.sha256, pair[0].shard_digest, pair[1]))
    parts, urls = tuple(m for m, _ in read), tuple(url for _, url in read)
    queries = QueriesManifest.read(queries_manifest_url)
    config = job.dataset.index
    levels = levels_of(parts[0].dims, config) if parts else (LEVEL,)
    _refuse_what_does_not_fit(parts, urls, levels)
    _refuse_other_queries(parts[0], urls[0], queries, queries_manifest_url, levels)
    inputs = {
        "embeddings": embedding_set_digest(list(parts)),
        "queries": queries.data.sha256,
        "config": config_digest(config, levels),
    }
    folder = job.layout.index(digest_value(inputs))
    change = None
    if base is not None and config.append.enabled and not exists(f"{folder}/manifest.json"):
        change = _change(base, parts, urls, inputs["config"])
    if change is not None:
        if (change.built.embeddings, change.built.queries) == (inputs["embeddings"], inputs["queries"]):
            folder, change = change.base.manifest.rsplit("/", 1)[0], None
        else:
            inputs["base"] = change.built.digest
            folder = job.layout.index(digest_value(inputs))
    return IndexPlan(
        digest_value(inputs),
        folder,
        f"{folder}/manifest.json",
        urls,
        parts,
        queries_manifest_url,
        queries,
        sum(m.data.rows for m in parts),
        levels,
        tuple(parts[0].dims[column] for column in levels),
        change,
    )


def _change(base: Base, parts: Sequence[EmbeddingManifest], urls: Sequence[str], wanted_config: str) -> Change | None:
    """What changed since a base; None where nothing of it can be used: made otherwise, of another encoder, or gone."""
    known = dict(zip(urls, parts, strict=True))
    if not all(exists(url) for url in (base.manifest, *(url for url in base.parts if url not in known))):
        return None
    try:
        built = IndexManifest.read(base.manifest)
    except InputError as error:
        log.warning("the index being served is not built on: %s", error)
        return None
    if (built.encoder, built.config_digest) != (parts[0].encoder, wanted_config):
        return None
    gone = [url for url in base.parts if url not in known]
    known |= dict(zip(gone, EmbeddingManifest.read_all(gone), strict=True))
    before = {url: known[url] for url in base.parts}
    if embedding_set_digest(list(before.values())) != built.embeddings:
        return None
    kept = {m.data.sha256 for m in parts} & {m.data.sha256 for m in before.values()}
    added = tuple(url for url, m in zip(urls, parts, strict=True) if m.data.sha256 not in kept)
    removed = tuple(url for url, m in before.items() if m.data.sha256 not in kept)
    if built.lineage is None and (added or removed):
        return None
    return Change(base, built, added, removed)


def levels_of(dims: Mapping[str, int], config: Index) -> tuple[str, ...]:
    """The vector columns to search through, coarse to fine; the finest alone for a flat search.

    By default an encoder that has levels is searched through them: it was trained for that, and the recall promised
    is measured against exact search at its finest level either way. With `refine` the finest level is there twice:
    compressed in the index, and whole beside it.

    Args:
      dims: column -> width, of the embedding parts.

    Raises:
      ConfigError: the config asks for levels the encoder does not have.
    """
    coarser = sorted((column for column in dims if column != LEVEL), key=lambda column: dims[column])
    if config.refine:
        if config.shortlist is not None and len(config.shortlist) != 1:
            raise ConfigError(f"index.shortlist: of a refined index expected one number, got {list(config.shortlist)}")
        return (LEVEL, LEVEL)
    if config.levels == "finest" or (config.levels == "auto" and not coarser and config.shortlist is None):
        return (LEVEL,)
    if not coarser:
        raise ConfigError(
            "index.levels, index.shortlist: the encoder has one level, there is no coarse to fine; leave both out"
        )
    if config.shortlist is not None and len(config.shortlist) != len(coarser):
        raise ConfigError(
            f"index.shortlist: expected {len(coarser)} numbers, one for each of {', '.join(coarser)}, "
            f"got {list(config.shortlist)}"
        )
    return (*coarser, LEVEL)


def config_digest(config: Index, levels: Sequence[str] = (LEVEL,)) -> str:
    """Of all of the index config that can change a byte, `levels` having decided the levels, and of the recipe."""
    flat = {"shortlist"} if len(levels) == 1 else set()
    promised = config.model_dump(mode="json", exclude={"levels", "append"} | flat)
    return digest_value({**promised, "columns": list(levels), "recipe": RECIPE})


def pending(plan: IndexPlan) -> bool:
    """Whether the index is still to be made."""
    return not exists(plan.manifest_url)


def _refuse_what_does_not_fit(parts: Sequence[EmbeddingManifest], urls: Sequence[str], levels: Sequence[str]) -> None:
    if not parts or not any(m.data.rows for m in parts):
        raise InputError(f"nothing to index: {len(parts)} embedding parts hold no rows; embed some shards first")
    if len(set(urls)) != len(urls):
        twice = next(url for url in urls if urls.count(url) > 1)
        raise InputError(f"{twice}: given twice; every part may be indexed once")
    first, first_url = parts[0], urls[0]
    for part, url in zip(parts, urls, strict=True):
        if not part.data.rows and not part.rejects.rows:
            raise InputError(
                f"{url}: empty: its shard holds no sample, not even a refused one; write that shard again, or take it "
                "out of the dataset"
            )
        if part.encoder != first.encoder:
            raise StaleError(
                f"{url}: made by encoder {part.encoder[:16]}, {first_url} by {first.encoder[:16]}; "
                "embed all shards with one encoder"
            )
        for level in levels:
            width, expected = part.dims.get(level), first.dims.get(level)
            if width != expected or width is None:
                raise InputError(f"{url}: column {level}: width {width}, but {expected} in {first_url}")


def _refuse_other_queries(
    first: EmbeddingManifest, first_url: str, queries: QueriesManifest, queries_url: str, levels: Sequence[str]
) -> None:
    if queries.encoder != first.encoder:
        raise StaleError(
            f"{queries_url}: made by encoder {queries.encoder[:16]}, the parts by {first.encoder[:16]}; encode the "
            "queries again with the parts' encoder"
        )
    for level in levels:
        width = queries.dims.get(level)
        if width != first.dims[level]:
            raise InputError(f"{queries_url}: column {level}: width {width}, but {first.dims[level]} in {first_url}")
    if queries.distinct == 0:
        raise InputError(
            f"{queries_url}: no queries: recall is promised on text queries and cannot be measured without them; "
            "set queries.log in the dataset config"
        )
