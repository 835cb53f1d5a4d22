"""The loop: steps, checkpoints, validation, early stopping. Resumed at a step, it does what it would have done."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset, Sampler

from encoders.architectures import classes
from encoders.precision import cpu_flags
from encoders.training import checkpoints
from encoders.training.augment import augment
from encoders.training.batches import Batch, Gallery, Inputs, Source, to_visual, tokenise
from encoders.training.build import Built, token_categories
from encoders.training.schedule import lr_factor, parameter_groups, set_lr
from encoders.training.stages import Phase, let_learn, phases
from encoders.training.validate import Recall, validate
from schemas.errors import ModelError
from schemas.training import ShardData, TrainConfig

logger = logging.getLogger(__name__)

RANK_STRIDE = 1_000_003
"""Keeps the random numbers of steps and seeds apart."""


@dataclass
class Listener:
    """What wants to know how the training goes; both are called on the main process only."""

    logged: Callable[[int, dict[str, float]], None] = lambda *_: None
    validated: Callable[[int, Recall], None] = lambda *_: None


@dataclass
class Progress:
    """How far a run is; goes through checkpoints.

    Attributes:
      step: steps done.
      best_step, best: of the validation whose weights are kept; each stage begins anew.
      worse: validations since.
      seconds: of training, over all resumptions.
      history: one row a validation.
    """

    step: int = 0
    best_step: int = 0
    best: float = -math.inf
    worse: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    built: Built,
    config: TrainConfig,
    source: Source,
    *,
    folder: Path,
    accelerator: Accelerator,
    resume: bool = True,
    listener: Listener | None = None,
    stop_after: int | None = None,
) -> Progress:
    """Trains; `folder` then holds the best weights as best.safetensors.

    Args:
      folder: for checkpoints.
      accelerator: see `accelerator_of`.
      resume: go on from the newest checkpoint in `folder`.
      stop_after: leave after this step, with a checkpoint, as if the machine were wanted back.

    Raises:
      ModelError: the loss is not a number.
    """
    listener = listener or Listener()
    model_class, objective_class = classes(config.model.architecture)
    planned = phases(config, model_class.STAGES)
    gallery = source.validation()
    objective = objective_class(
        built.model,
        config.losses,
        mask_id=built.tokenizer.mask_token_id,
        category=token_categories(built.tokenizer, dict(source.categories())),
    )
    groups = parameter_groups(built.model, config.optimizer, factors=built.factors)
    learning = frozenset(name for name, parameter in built.model.named_parameters() if parameter.requires_grad)
    optimizer = torch.optim.AdamW(
        groups, lr=config.optimizer.lr, betas=(0.9, config.optimizer.beta2), fused=accelerator.device.type == "cuda"
    )
    built.model.to(accelerator.device)
    progress = Progress()
    found = checkpoints.latest(folder) if resume else None
    if found is not None:
        state = checkpoints.load(found, model=built.model, optimizer=optimizer)
        progress = Progress(**{key: state[key] for key in Progress.__dataclass_fields__})
        logger.info("resumed at step %d", progress.step)
    wrapped, prepared = accelerator.prepare(objective, optimizer)
    run = _Run(built, config, source, folder, accelerator, wrapped, prepared, optimizer, learning, gallery, listener)
    for phase in planned:
        if progress.step < phase.last and not run.go(progress, phase, stop_after):
            break
    return progress


@dataclass
class _Run:
    """The parts of a running loop."""

    built: Built
    config: TrainConfig
    source: Source
    folder: Path
    accelerator: Accelerator
    objective: Any
    optimizer: Any
    plain_optimizer: torch.optim.Optimizer
    learning: frozenset[str]
    gallery: Gallery
    listener: Listener

    def go(self, progress: Progress, phase: Phase, stop_after: int | None) -> bool:
        """Trains to the end of a phase; False if the run was stopped."""
        config, before, started = self.config, progress.seconds, time.monotonic()
        model, last = self.built.model, min(phase.last, stop_after or phase.last)
        if progress.step == phase.first:
            model.enter_stage(phase.name)
            progress.best, progress.worse = -math.inf, 0
        still = tuple(name for name, factor in self.built.factors.items() if factor == 0)
        model.frozen = phase.stage.frozen + still
        let_learn(model, self.learning, phase.stage.frozen)
        model.train()
        sums: dict[str, list[torch.Tensor]] = {}
        for step, batch in zip(range(progress.step, last), self.batches(progress.step, last), strict=True):
            for name, value in self.step(step, batch, phase).items():
                sums.setdefault(name, []).append(value.detach())
            progress.step = step + 1
            progress.seconds = before + time.monotonic() - started
            if progress.step % config.log_every == 0 or progress.step == last:
                self.log(progress.step, sums)
                sums = {}
            if progress.step % config.validation.every == 0 or progress.step == phase.last:
                self.check(progress, phase)
            patience = config.validation.patience
            stopped = patience is not None and progress.worse >= patience and phase.last == config.steps
            if progress.step % config.checkpoint_every == 0 or progress.step == last or stopped:
                self.save(progress)
            if stopped:
                logger.info("stopped at step %d: no better validation since step %d", progress.step, progress.best_step)
                return False
        return last == phase.last

    def step(self, step: int, batch: Batch, phase: Phase) -> dict[str, torch.Tensor]:
        """One step of the optimizer; losses by name, on the device."""
        config, accelerator = self.config, self.accelerator
        seed = (config.seed * RANK_STRIDE + step) * accelerator.num_processes + accelerator.process_index
        torch.manual_seed(seed)  # dropout
        generator = torch.Generator(accelerator.device).manual_seed(seed)
        optimizer = config.optimizer
        factor = lr_factor(
            step - phase.first,
            steps=phase.last - phase.first,
            warmup_steps=optimizer.warmup_steps,
            final_fraction=optimizer.final_lr_fraction,
        )
        set_lr(self.plain_optimizer, phase.lr_factor * factor)
        losses: dict[str, torch.Tensor] = self.objective(
            self.inputs(batch, generator), task=phase.task(step), progress=phase.progress(step), generator=generator
        )
        self.optimizer.zero_grad()
        accelerator.backward(losses["total"])
        accelerator.clip_grad_norm_(self.objective.parameters(), optimizer.clip_norm)
        self.optimizer.step()
        return losses

    def inputs(self, batch: Batch, generator: torch.Generator) -> Inputs:
        """A batch as tensors on the device, augmented."""
        device, tokenizer, data = self.accelerator.device, self.built.tokenizer, self.config.data
        ids, mask = tokenise(tokenizer, batch.captions, max_words=self.config.model.max_words, device=device)
        special = torch.tensor(tokenizer.all_special_ids, device=device)
        visuals = []
        for group in batch.visuals:
            visual = to_visual(torch.as_tensor(group), self.built.spec, device)
            if isinstance(data, ShardData) and self.source.augment and visual.ndim == 5:
                visual = augment(
                    visual,
                    crop_scale=data.crop_scale,
                    flip=data.flip,
                    jitter=data.colour_jitter,
                    generator=generator,
                )
            visuals.append(visual)
        item_ids = torch.as_tensor(batch.item_ids, device=device)
        teacher = None if batch.teacher is None else torch.as_tensor(batch.teacher, device=device)
        return Inputs(tuple(visuals), ids, mask, mask & ~torch.isin(ids, special), item_ids, teacher)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of steps `first` to `last` - 1, made ahead by worker processes."""
        accelerator, workers = self.accelerator, self.config.workers
        workers = spare_cores(accelerator.num_processes) if workers is None else workers
        return iter(
            DataLoader(
                _Steps(self.source, accelerator.process_index),
                sampler=_Range(range(first, last)),
                batch_size=None,
                num_workers=workers,
                collate_fn=_keep,
                prefetch_factor=4 if workers else None,
            )
        )

    def log(self, step: int, sums: dict[str, list[torch.Tensor]]) -> None:
        """Tells the listener the means since the last time; refuses to go on without numbers."""
        means = {name: float(torch.stack(values).mean()) for name, values in sums.items()}
        if not math.isfinite(means["total"]):
            raise ModelError(f"step {step}: the loss is {means['total']}; lower optimizer.lr or use float32")
        if self.accelerator.is_main_process:
            self.listener.logged(step, means)

    def check(self, progress: Progress, phase: Phase) -> None:
        """Validates, and keeps the weights if they are the best of the phase so far."""
        config = self.config.validation
        with self.accelerator.autocast():
            result = validate(
                self.built.model,
                self.gallery,
                tokenizer=self.built.tokenizer,
                spec=self.built.spec,
                depth=config.depth,
                max_queries=config.max_queries,
                shortlist=phase.stage.fast,
            )
        value = score(result, config.best)
        progress.history.append({"step": float(progress.step), **result.as_dict()})
        progress.worse += 1
        if value > progress.best:
            progress.best, progress.best_step, progress.worse = value, progress.step, 0
            if self.accelerator.is_main_process:
                self.folder.mkdir(parents=True, exist_ok=True)
                weights = {name: w.detach().cpu().contiguous() for name, w in self.built.model.state_dict().items()}
                save_file(weights, self.folder / ".best.safetensors")
                (self.folder / ".best.safetensors").replace(self.folder / "best.safetensors")
        if self.accelerator.is_main_process:
            self.listener.validated(progress.step, result)

    def save(self, progress: Progress) -> None:
        """A checkpoint of the main process; the others wait."""
        if self.accelerator.is_main_process:
            state = copy.deepcopy(progress.__dict__)
            step = state.pop("step")
            checkpoints.save(
                self.folder, step=step, model=self.built.model, optimizer=self.plain_optimizer, state=state
            )
        self.accelerator.wait_for_everyone()


def score(result: Recall, best: str) -> float:
    """The one number validations are compared by."""
    if best == "fast_r1":
        return result.fast[0]
    return result.fused if best == "reranked_r1" else result.fast[0] + result.fused


def best_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the best validation."""
    return load_file(folder / "best.safetensors")


def accelerator_of(config: TrainConfig, device: str | None = None) -> Accelerator:
    """Device and precision of a run.

    Args:
      device: "cpu" keeps a run off the GPU.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    able = torch.cuda.is_bf16_supported() if gpu else bool(cpu_flags())
    bf16 = config.precision == "bfloat16" or (config.precision == "auto" and able)
    if bf16 and not able:
        logger.warning("precision bfloat16: this machine has none and imitates it, many times slower; auto would not")
    if gpu:
        torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
    AcceleratorState._reset_state()  # another run of this process may have had another precision
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # stages and tasks leave some without gradients
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=device == "cpu", kwargs_handlers=[unused])


def spare_cores(processes: int) -> int:
    """Worker processes that make batches: the cores beyond those that train, at most 14 a process."""
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(14, cores // processes - 2))


class _Steps(Dataset[Batch]):
    """Step -> batch, pixels as tensors (which travel between processes by shared memory)."""

    def __init__(self, source: Source, rank: int) -> None:
        self.source = source
        self.rank = rank

    def __getitem__(self, step: int) -> Batch:
        batch = self.source.batch(step, self.rank)
        return replace(batch, visuals=tuple(torch.from_numpy(group) for group in batch.visuals))  # type: ignore[misc]


class _Range(Sampler[int]):
    """The steps, in order."""

    def __init__(self, steps: range) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def _keep(batch: Any) -> Any:
    return batch
