"""What every stage of a run is given: the resolved configs and where things go."""

from dataclasses import dataclass

from schemas.configs import DatasetConfig, EncoderConfig
from schemas.layout import Layout


@dataclass(frozen=True)
class Job:
    """One dataset to be indexed under one root.

    Attributes:
      dataset: the dataset's config, overrides applied.
      encoder: the fast side.
      scorer: the slow side; None leaves candidates in the order of the fast side.
      layout: paths below the root.
      beam_args: Beam options, passed through; empty runs locally.
    """

    dataset: DatasetConfig
    encoder: EncoderConfig
    scorer: EncoderConfig | None
    layout: Layout
    beam_args: tuple[str, ...] = ()
