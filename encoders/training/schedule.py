"""The learning rate of each step and of each group of parameters."""

import math

import torch
from torch import nn

from schemas.training import Optimizer

POSITIONS = ("space", "time")
"""Names of tables of positions: decayed no more than embeddings are."""


def lr_factor(step: int, *, steps: int, warmup_steps: int, final_fraction: float) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to `final_fraction`.

    >>> [round(lr_factor(s, steps=10, warmup_steps=2, final_fraction=0.0), 2) for s in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * done))


def parameter_groups(model: nn.Module, config: Optimizer, *, factors: dict[str, float]) -> list[dict[str, object]]:
    """Groups for AdamW; each keeps its peak rate under "peak".

    No decay on norms, biases, embeddings and single vectors. A factor of 0 freezes: such parameters are left out
    and need no gradient afterwards.

    Args:
      factors: learning-rate factor by the name of a submodule, for those that were not trained from nothing; the
        first name that fits counts.
    """
    embeddings = {
        id(weight) for module in model.modules() if isinstance(module, nn.Embedding) for weight in module.parameters()
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = next((factor for part, factor in factors.items() if name.startswith(f"{part}.")), 1.0)
        if config.freeze_word_embeddings and "word_embeddings" in name:
            factor = 0.0
        if factor == 0:
            parameter.requires_grad_(False)
            continue
        decays = parameter.ndim >= 2 and id(parameter) not in embeddings and name.rpartition(".")[2] not in POSITIONS
        groups.setdefault((factor, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": config.lr * factor,
            "lr": config.lr * factor,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in groups.items()
    ]


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets each group's rate to its peak times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
