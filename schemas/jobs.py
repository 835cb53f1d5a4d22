"""What every stage of a run is given: the resolved configs and where things go."""

from dataclasses import dataclass
from typing import Literal

from schemas.configs import DatasetConfig, EncoderConfig
from schemas.layout import Layout


@dataclass(frozen=True)
class Runner:
    """Where the Beam pipelines of a job run; nothing of it decides what they write.

    Attributes:
      title: part of the names under which an engine lists them.
      beam_args: Beam options; where they name no runner, everything runs on this machine.
      processes: on this machine, side by side; "gpus": one for each GPU. 1 where beam_args name a runner.
      shared_folders: folders of this machine are mounted in the same place on every worker.
    """

    title: str = "job"
    beam_args: tuple[str, ...] = ()
    processes: int | Literal["gpus"] = 1
    shared_folders: bool = False


@dataclass(frozen=True)
class Job:
    """One dataset to be indexed under one root.

    Attributes:
      dataset: the dataset's config, overrides applied.
      encoder: the fast side.
      scorer: the slow side; None leaves candidates in the order of the fast side.
      layout: paths below the root.
      runner: where.
    """

    dataset: DatasetConfig
    encoder: EncoderConfig
    scorer: EncoderConfig | None
    layout: Layout
    runner: Runner = Runner()

    @property
    def models(self) -> dict[str, str]:
        """What workers load: "encoder" and, where there is one, "scorer" -> path of its config."""
        sides = {"encoder": self.encoder, "scorer": self.scorer}
        return {side: config.path for side, config in sides.items() if config is not None}
