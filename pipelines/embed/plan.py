"""What there is to embed: every shard, where its vectors go, and which of them are not there yet.

Imports neither torch nor Beam: asking whether everything is done must take no time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from encoders.precision import fingerprint_of
from pipelines.webdataset.shards import list_shards
from schemas.configs import Captions, Embed
from schemas.digests import digest_value
from schemas.errors import InputError
from schemas.jobs import Job
from schemas.layout import EmbeddingPaths
from schemas.manifests import SCHEMA_VERSION, list_manifests

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
    """

    url: str
    digest: str
    size_bytes: int
    paths: EmbeddingPaths


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


def plan(job: Job, shards: Sequence[str]) -> EmbedPlan:
    """What is to be embedded, and what of it is still to do.

    Manifests of shards that are no longer in the dataset stay where they are and are no part of the plan.

    Args:
      shards: URLs, brace patterns or globs.

    Raises:
      InputError: a pattern matches nothing, or two shards of one name have the same content.
    """
    config = job.dataset
    encoder = fingerprint_of(job.encoder, job.layout)
    recipe = Recipe(config.name, config.key_scope, config.captions, config.embed, encoder)
    planned = tuple(
        PlannedShard(
            shard.url, shard.digest, shard.size_bytes, job.layout.embedding_part(recipe.digest, shard.url, shard.digest)
        )
        for shard in list_shards(shards, job.layout)
    )
    _refuse_same_output(planned)
    folder = job.layout.embeddings(recipe.digest)
    done = set(list_manifests(folder))  # one listing instead of a question for every shard
    return EmbedPlan(recipe, folder, planned, tuple(shard for shard in planned if shard.paths.manifest not in done))


def _refuse_same_output(shards: Sequence[PlannedShard]) -> None:
    owner: dict[str, str] = {}
    for shard in shards:
        other = owner.setdefault(shard.paths.manifest, shard.url)
        if other != shard.url:
            raise InputError(
                f"{other} and {shard.url}: two shards with the same name and content, expected each item once; "
                "remove one of them from `shards` in the dataset config"
            )
