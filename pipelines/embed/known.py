"""Vectors an earlier part holds: an item whose content has not changed takes its own over, whatever else has.

A new caption of an old picture changes its row, not its vector. The vector may differ in its last bit from one that
is computed anew, because a matrix product of another height rounds differently; the name of a part does not say which
of the two it holds.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipelines.embed.plan import PlannedShard, Recipe
from schemas.embeddings import part_url
from schemas.errors import InputError
from schemas.manifests import EmbeddingManifest
from schemas.parquet import read_table, vectors
from schemas.samples import Modality

COLUMNS = ("content_sha256", "modality", "width", "height", "duration_s", "frame_times_s")


class Seen(NamedTuple):
    """What is known of a picture or clip without decoding it; vectors float16 (D,) by column."""

    modality: Modality
    width: int
    height: int
    duration_s: float
    frame_times_s: tuple[float, ...]
    vectors: dict[str, np.ndarray]


@dataclass(frozen=True)
class Known:
    """Items of earlier parts by the SHA-256 of their content; memory: their vectors."""

    items: dict[str, Seen] = field(default_factory=dict)

    @classmethod
    def of(cls, shard: PlannedShard, recipe: Recipe) -> "Known":
        """What the earlier part of a shard holds, where it was made as its new one will be; else nothing.

        An earlier part that is gone or damaged costs time, never correctness.
        """
        if shard.earlier is None:
            return cls()
        try:
            manifest = EmbeddingManifest.read(shard.earlier)
            if manifest.vectors_digest != recipe.vectors_digest:
                return cls()
            table = read_table(part_url(shard.earlier, manifest), [*COLUMNS, *manifest.dims])
        except InputError:
            return cls()
        levels = {name: vectors(table.column(name)).astype(np.float16) for name in manifest.dims}
        found = {}
        for row, facts in enumerate(table.select(COLUMNS).to_pylist()):
            content = facts.pop("content_sha256")
            facts["frame_times_s"] = tuple(facts["frame_times_s"])
            found[content] = Seen(**facts, vectors={name: rows[row] for name, rows in levels.items()})
        return cls(found)
