"""What a run needs to go on as if it had never stopped: weights, optimizer, step, best so far.

Chance needs no state: every step seeds its own generator from (seed, step).
A checkpoint is a folder `step-<n>` that appears whole, by rename; the one before it is then removed.
Tensors are safetensors; the optimizer's moments are stored by parameter name.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from schemas.errors import InputError


def save(folder: Path, *, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Writes `folder/step-<step>` and removes older ones.

    Args:
      state: whatever else the loop wants back; JSON.
    """
    target = folder / f"step-{step:07d}"
    if not target.exists():
        partial = folder / f".partial-{step:07d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_plain(model.state_dict()), partial / "model.safetensors")
        moments, counts = _moments(model, optimizer)
        save_file(moments, partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps({"step": step, "counts": counts, **state}))
        os.replace(partial, target)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    return max(folder.glob("step-*"), default=None)


def load(checkpoint: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts a checkpoint into model and optimizer; returns its state, with "step".

    Raises:
      InputError: it does not fit the model.
    """
    try:
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    except RuntimeError as error:
        raise InputError(
            f"{checkpoint}: the checkpoint is of another model; give another output folder, or remove it: {error}"
        ) from error
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    moments = load_file(checkpoint / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        if name in state["counts"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state["counts"][name]), device=_step_device(optimizer, parameter)),
                "exp_avg": moments[f"{name}/exp_avg"].to(parameter.device),
                "exp_avg_sq": moments[f"{name}/exp_avg_sq"].to(parameter.device),
            }
    return state


def _step_device(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> torch.device:
    """AdamW keeps its step counts on the device when fused, on the CPU otherwise."""
    return parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    moments, counts = {}, {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        if state:
            counts[name] = float(state["step"])
            moments[f"{name}/exp_avg"] = state["exp_avg"]
            moments[f"{name}/exp_avg_sq"] = state["exp_avg_sq"]
    return _plain(moments), counts


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, contiguous, each with memory of its own."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
