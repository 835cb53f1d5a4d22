"""What there is to embed: every shard, where its vectors go, and which of them are not there yet.

Imports neither torch nor Beam: asking whether everything is done must take no time.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from encoders.precision import fingerprint_of
from pipelines.webdataset.shards import list_shards
from schemas.configs import Captions, Embed
from schemas.digests import digest_value
from schemas.errors import InputError
from schemas.jobs import Job
from schemas.layout import EmbeddingPaths
from schemas.manifests import SCHEMA_VERSION, EmbeddingManifest, list_manifests

CODE_VERSION = 1
"""Raised when the same inputs and settings would give other bytes (batch composition, decoding, normalisation)."""


@dataclass(frozen=True)
class Recipe:
    """Everything besides a shard's content that decides what its embedding file holds.

    Attributes:
      dataset: its name; part of every item id.
      key_scope: whether keys are unique in the dataset or only within a shard.
      captions: where captions are.
      embed: batch size, frames, limits.
      encoder: fingerprint of the fast side.
    """

    dataset: str
    key_scope: Literal["dataset", "shard"]
    captions: Captions
    embed: Embed
    encoder: str

    @property
    def settings_digest(self) -> str:
        """The name of the settings, without the encoder."""
        return digest_value(
            {
                "captions": self.captions.model_dump(mode="json"),
                "code": CODE_VERSION,
                "dataset": self.dataset,
                # the share of rejects that stops a job changes no byte of what is written
                "embed": self.embed.model_dump(mode="json", exclude={"max_reject_fraction"}),
                "key_scope": self.key_scope,
                "schema": SCHEMA_VERSION,
            }
        )

    @property
    def vectors_digest(self) -> str:
        """The name of what decides a vector of given content: batches, limits and captions do not."""
        chosen = self.embed.model_dump(mode="json", include={"frames", "jpeg_scaling"})
        return digest_value({"code": CODE_VERSION, "embed": chosen, "encoder": self.encoder})

    @property
    def digest(self) -> str:
        """The name of the whole recipe; names the folder of the embeddings."""
        return digest_value({"encoder": self.encoder, "settings": self.settings_digest})


@dataclass(frozen=True)
class PlannedShard:
    """One shard to be embedded.

    Attributes:
      url: where it is.
      digest: of its content.
      size_bytes: as stored.
      paths: where its vectors, rejects and manifest go.
      earlier: manifest of a part that may hold vectors of the same items; None: all are computed.
      again: whether that part is of the same content, and this an attempt to take in what it refused.
    """

    url: str
    digest: str
    size_bytes: int
    paths: EmbeddingPaths
    earlier: str | None = None
    again: bool = False


@dataclass(frozen=True)
class EmbedPlan:
    """All shards of a dataset under one recipe.

    Attributes:
      recipe: how they are embedded.
      folder: where everything made by this recipe lies.
      shards: in the order of the dataset.
      pending: those without a manifest, in the same order.
    """

    recipe: Recipe
    folder: str
    shards: tuple[PlannedShard, ...]
    pending: tuple[PlannedShard, ...]

    @property
    def manifests(self) -> tuple[str, ...]:
        """URLs of the manifests of all shards, in the order of the dataset; readers trust only these."""
        return tuple(shard.paths.manifest for shard in self.shards)


def plan(job: Job, shards: Sequence[str], earlier: Sequence[str] = (), *, replay: bool = False) -> EmbedPlan:
    """What is to be embedded, and what of it is still to do.

    Manifests of shards that are no longer in the dataset stay where they are and are no part of the plan. Of several
    attempts at one shard the last counts.

    Args:
      shards: URLs, brace patterns or globs.
      earlier: manifests of the parts being served; a changed shard takes vectors over from the one of its name.
      replay: shards with rejects are to do once more.

    Raises:
      InputError: a pattern matches nothing, or two shards of one name have the same content.
    """
    config = job.dataset
    encoder = fingerprint_of(job.encoder, job.layout)
    recipe = Recipe(config.name, config.key_scope, config.captions, config.embed, encoder)
    folder = job.layout.embeddings(recipe.digest)
    done = _last_attempts(list_manifests(folder))  # one listing instead of a question for every shard
    by_stem = {_stem(url): url for url in earlier}
    planned: list[PlannedShard] = []
    pending: list[PlannedShard] = []
    for shard in list_shards(shards, job.layout):
        first = job.layout.embedding_part(recipe.digest, shard.url, shard.digest)
        last = done.get(first.manifest)
        paths = job.layout.embedding_part(recipe.digest, shard.url, shard.digest, attempt=last or 0)
        one = PlannedShard(shard.url, shard.digest, shard.size_bytes, paths)
        if last is None:
            one = replace(one, earlier=by_stem.get(_stem(paths.manifest)))
            pending.append(one)
        elif replay and EmbeddingManifest.read(paths.manifest).counts.rejected:
            next_one = job.layout.embedding_part(recipe.digest, shard.url, shard.digest, attempt=last + 1)
            pending.append(replace(one, paths=next_one, earlier=paths.manifest, again=True))
        planned.append(one)
    _refuse_same_output(planned)
    return EmbedPlan(recipe, folder, tuple(planned), tuple(pending))


class Difference(NamedTuple):
    """Shards of a dataset against those being served; `anew`: none can stay, encoder or settings are others."""

    added: int
    changed: int
    deleted: int
    unchanged: int
    anew: bool

    def __str__(self) -> str:
        """For people."""
        if self.anew:
            return f"all {self.added + self.changed} shards anew: the encoder or a setting that changes rows is another"
        return f"shards: {self.added} added, {self.changed} changed, {self.deleted} deleted, {self.unchanged} unchanged"


def difference(wanted: EmbedPlan, served: Sequence[str]) -> Difference:
    """What became of the shards since a generation was made.

    Args:
      served: manifests of its parts.
    """
    new, old = set(wanted.manifests) - set(served), set(served) - set(wanted.manifests)
    changed = (Counter(map(_stem, new)) & Counter(map(_stem, old))).total()
    anew = bool(served) and not any(url.startswith(f"{wanted.folder}/") for url in served)
    return Difference(len(new) - changed, changed, len(old) - changed, len(wanted.shards) - len(new), anew)


_MANIFEST = re.compile(r"(?P<stem>.*)-[0-9a-f]+(\.again(?P<attempt>\d+))?\.json")


def _last_attempts(urls: Sequence[str]) -> dict[str, int]:
    """First attempt's manifest -> number of the last one there is."""
    found: dict[str, int] = {}
    for url in urls:
        match = _MANIFEST.fullmatch(url)
        attempt = int(match["attempt"] or 0) if match else 0
        first = url.replace(f".again{attempt}.json", ".json")
        found[first] = max(attempt, found.get(first, 0))
    return found


def _stem(manifest_url: str) -> str:
    """Of a part: its shard's name, whatever it was made of."""
    match = _MANIFEST.fullmatch(manifest_url.rsplit("/", 1)[-1])
    return match["stem"] if match else manifest_url


def _refuse_same_output(shards: Sequence[PlannedShard]) -> None:
    owner: dict[str, str] = {}
    for shard in shards:
        other = owner.setdefault(shard.paths.manifest, shard.url)
        if other != shard.url:
            raise InputError(
                f"{other} and {shard.url}: two shards with the same name and content, expected each item once; "
                "remove one of them from `shards` in the dataset config"
            )
