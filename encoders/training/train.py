"""A whole training run: build, loop, export. Run again, it says that it is done, or goes on where it was."""

import hashlib
import json
import logging
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from encoders.sources import resolve
from encoders.training.batches import FeatureSource, Source
from encoders.training.build import Built, build, preprocessor_config
from encoders.training.features import cached_features, on_grid
from encoders.training.loop import Listener, Progress, accelerator_of, best_weights, fit
from encoders.training.memo import TextMemo
from encoders.training.stages import phases
from encoders.training.validate import Recall, validate
from schemas.configs import EncoderConfig
from schemas.digests import digest_file, digest_value
from schemas.training import ShardData, TrainConfig

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")


def train(
    config: TrainConfig,
    source: Source,
    out: Path,
    *,
    resume: bool = True,
    listener: Listener | None = None,
    device: str | None = None,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Trains and exports a checkpoint folder.

    It holds config.json, model.safetensors, the tokenizer's files, preprocessor_config.json and training.json.

    Args:
      config: of the run.
      source: of the data.
      out: the folder; `out`/checkpoints is used on the way.
      resume: go on from checkpoints found there.
      device: "cpu" keeps the run off the GPU.
      stop_after: end after so many steps of a schedule made for `config.steps`.

    Returns:
      What training.json holds.

    Raises:
      ModelError: a backbone cannot be had; the loss is not a number.
      InputError: a checkpoint found is of another model.
    """
    folder = out / "checkpoints"
    digest = run_digest(config, source.digest)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    built = build(config, source.words())
    accelerator = accelerator_of(config, device)
    data = config.data
    if isinstance(source, FeatureSource) and isinstance(data, ShardData) and data.cached_views:
        built.model.to(accelerator.device)
        name = features_digest(config, built, source.digest, accelerator.mixed_precision)[:16]
        kept = Path(data.feature_folder) if data.feature_folder else folder / "features"
        with accelerator.autocast():
            source.use_features(
                lambda images, part: on_grid(
                    cached_features(
                        built.model,
                        images,
                        kept / f"{part}-{name}.npy",
                        spec=built.spec,
                        data=data,
                        views=data.cached_views if part == "train" else 1,
                    ),
                    0 if config.model.vision_top else config.model.vision_side,
                )
            )
    if (
        isinstance(source, FeatureSource)
        and built.model.TEXT_ALONE
        and any(phase.stage.fast for phase in phases(config, built.model.STAGES))
        and config.model.text
        and config.optimizer.text_lr_factor == 0
    ):
        remember_texts(built, config, source, accelerator, folder / "features")
    progress = fit(
        built,
        config,
        source,
        folder=folder / digest[:16],
        accelerator=accelerator,
        resume=resume,
        listener=listener,
        stop_after=stop_after,
    )
    built.model.load_state_dict(best_weights(folder / digest[:16]))
    with accelerator.autocast():
        result = validate(
            built.model,
            source.validation(),
            tokenizer=built.tokenizer,
            spec=built.spec,
            depth=config.validation.depth,
            max_queries=5 * config.validation.max_queries,
        )
    record = _record(config, built, progress, result, digest=digest, data_digest=source.digest)
    if accelerator.is_main_process:
        export(config, built, record, out)
        shutil.rmtree(folder)
    accelerator.wait_for_everyone()
    return record


def remember_texts(
    built: Built, config: TrainConfig, source: FeatureSource, accelerator: Accelerator, folder: Path
) -> None:
    """Reads all captions once with the frozen text tower, in eval mode; what it makes is kept as features are."""
    model = built.model.to(accelerator.device)
    model.train(False)
    shared = config.data.feature_folder if isinstance(config.data, ShardData) else None
    name = texts_digest(config, built, source.texts(), accelerator.mixed_precision)[:16]
    with torch.no_grad(), accelerator.autocast():
        memo = TextMemo(
            model.text_states,
            built.tokenizer,
            source.texts(),
            max_words=config.model.max_words,
            device=accelerator.device,
            path=(Path(shared) if shared else folder) / f"texts-{name}.npy",
        )
    model.text_memo = memo


def run_digest(config: TrainConfig, data_digest: str) -> str:
    """Names a run by all that its result depends on."""
    parts = {"config": config.model_dump(mode="json", exclude={"workers", "log_every"}), "data": data_digest}
    if config.initial:
        parts["initial"] = digest_file(str(resolve(EncoderConfig(path=config.initial)) / "model.safetensors"))
    return digest_value(parts)


def features_digest(config: TrainConfig, built: Built, data_digest: str, precision: str) -> str:
    """Names the features of a frozen backbone, so that a run with other settings above it finds them again.

    Args:
      precision: what "auto" means on this machine; another may share the folder.
    """
    return digest_value(
        {
            "data": data_digest,
            "views": config.data.model_dump(mode="json", exclude={"train", "validation", "rankings", "feature_folder"}),
            "precision": precision,
            "pixels": repr(built.spec),
            "layers": list(config.model.vision_layers),
            "top": config.model.vision_top,
            "weights": weights_digest(built.model.get_submodule(built.model.BACKBONES["vision"][0])),
        }
    )


def texts_digest(config: TrainConfig, built: Built, texts: Sequence[str], precision: str) -> str:
    """Names what a frozen text tower makes of captions; see `features_digest`."""
    return digest_value(
        {
            "texts": sorted(set(texts)),
            "max_words": config.model.max_words,
            "precision": precision,
            "layers": list(config.model.text_layers),
            "weights": weights_digest(built.model.get_submodule(built.model.BACKBONES["text"][0])),
        }
    )


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of names and values of all weights."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def finished(out: Path, digest: str) -> dict[str, Any] | None:
    """The record of the run of this digest, if `out` holds its result."""
    path = out / "training.json"
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record if record.get("digest") == digest else None


def export(config: TrainConfig, built: Built, record: dict[str, Any], out: Path) -> None:
    """Writes the checkpoint folder; training.json, written last, says that it is whole."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "training.json").unlink(missing_ok=True)
    built.model.cpu().to(getattr(torch, config.export_dtype)).save_pretrained(out)
    built.tokenizer.save_pretrained(out)
    text = json.dumps(preprocessor_config(built.spec), indent=2, sort_keys=True)
    (out / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")
    partial = out / ".training.json"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(out / "training.json")


def _record(
    config: TrainConfig, built: Built, progress: Progress, result: Recall, *, digest: str, data_digest: str
) -> dict[str, Any]:
    cuda = next(built.model.parameters()).is_cuda
    return {
        "name": config.name,
        "digest": digest,
        "data_digest": data_digest,
        "command": " ".join(["python -m pipelines.training_job", *sys.argv[1:]]),
        "seed": config.seed,
        "steps": progress.step,
        "best_step": progress.best_step,
        "seconds": round(progress.seconds, 1),
        "device": torch.cuda.get_device_name() if cuda else f"CPU {platform.machine()}",
        "parameters": sum(parameter.numel() for parameter in built.model.parameters()),
        "metrics": result.as_dict(),
        "fusion_beta": result.beta,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "history": progress.history,
        "config": config.model_dump(mode="json"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
