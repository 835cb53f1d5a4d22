"""Vectors of all processes, so that each contrasts its own with everybody's."""

from typing import Any

import torch
from torch import distributed


def gather(rows: torch.Tensor) -> torch.Tensor:
    """(B, ...) of this process -> (processes * B, ...), in the order of ranks; gradients flow back to each owner."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    gathered: torch.Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """Everybody's loss has a gradient for my rows; their sum is mine (processes then average over themselves)."""

    @staticmethod
    def forward(_: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]
