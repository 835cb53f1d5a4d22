"""A generation with the manifests and configs it names, checked to be there; reads no tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.jobs import resolve_encoder
from schemas.configs import DatasetConfig, EncoderConfig, parse
from schemas.layout import Layout
from schemas.manifests import Generation, IndexManifest, QueriesManifest, RankingsManifest


@dataclass(frozen=True)
class Published:
    """What a generation is made of.

    Attributes:
      layout: where its files are.
      config: of the dataset, as it was when the generation was made.
      encoder, scorer: the models' configs.
      rankings: None where no queries were ranked.
    """

    layout: Layout
    generation: Generation
    config: DatasetConfig
    encoder: EncoderConfig
    scorer: EncoderConfig | None
    index: IndexManifest
    queries: QueriesManifest
    rankings: RankingsManifest | None

    @property
    def beta(self) -> float:
        """The weight of the fast side in the final score."""
        return self.rankings.beta if self.rankings else 0.0

    def url(self, relative: str) -> str:
        """Where a file lies that the generation names relative to the root."""
        return f"{self.layout.root}/{relative}"


def published(layout: Layout, generation: Generation) -> Published:
    """A generation's parts.

    Raises:
      InputError: a manifest it names is missing or damaged.
      ConfigError: it was made with a config this program does not understand, or with a model it cannot find.
    """
    root = layout.root
    config, encoder, scorer = _configs(generation.config, layout.generation(generation.number))
    return Published(
        layout=layout,
        generation=generation,
        config=config,
        encoder=encoder,
        scorer=scorer,
        index=IndexManifest.read(f"{root}/{generation.index}"),
        queries=QueriesManifest.read(f"{root}/{generation.queries}"),
        rankings=RankingsManifest.read(f"{root}/{generation.rankings}") if generation.rankings else None,
    )


def _configs(value: Mapping[str, Any], source: str) -> tuple[DatasetConfig, EncoderConfig, EncoderConfig | None]:
    """The config of the dataset and of both models."""
    config = parse(DatasetConfig, value, source=source)
    return config, resolve_encoder(config.encoder), resolve_encoder(config.scorer) if config.scorer else None
