"""Vectors of all processes, so that each contrasts its own with everybody's."""

import torch
from torch import distributed


def gather(rows: torch.Tensor) -> torch.Tensor:
    """(B, ...) of this process -> (processes * B, ...), in the order of ranks; gradients flow back to each owner."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows
    if not rows.requires_grad:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]
