"""Which stage of an architecture's training a step belongs to, and what may learn in it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from encoders.architectures.base import Stage
from schemas.errors import ConfigError
from schemas.training import TrainConfig


@dataclass(frozen=True)
class Phase:
    """A stage of a run, from step `first` to `last` - 1."""

    name: str
    stage: Stage
    first: int
    last: int
    lr_factor: float

    def task(self, step: int) -> str:
        """What a step of this phase trains: several tasks take turns."""
        return self.stage.tasks[(step - self.first) % len(self.stage.tasks)]

    def progress(self, step: int) -> float:
        """Share of the phase done before a step."""
        return (step - self.first) / (self.last - self.first)


def phases(config: TrainConfig, stages: Mapping[str, Stage]) -> list[Phase]:
    """The phases of a run, in order; they cover its steps.

    Args:
      stages: of the architecture; its first is the whole run where the config names none.

    Raises:
      ConfigError: a stage the architecture does not have.
    """
    if not config.stages:
        name = next(iter(stages))
        return [Phase(name, stages[name], 0, config.steps, 1.0)]
    unknown = [stage.name for stage in config.stages if stage.name not in stages]
    if unknown:
        known = ", ".join(stages)
        raise ConfigError(f"stages: {config.model.architecture} has no stage {unknown[0]!r}; known: {known}")
    ends = [*(stage.from_step for stage in config.stages[1:]), config.steps]
    return [
        Phase(stage.name, stages[stage.name], stage.from_step, end, stage.lr_factor)
        for stage, end in zip(config.stages, ends, strict=True)
    ]


def let_learn(model: nn.Module, names: frozenset[str], frozen: tuple[str, ...]) -> None:
    """Gives gradients to the parameters of these names, but for those of the frozen submodules."""
    for name, parameter in model.named_parameters():
        teacher = any(name.startswith(f"{part}.") for part in frozen)
        parameter.requires_grad_(name in names and not teacher)
        if teacher:
            parameter.grad = None
