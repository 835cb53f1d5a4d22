"""Trains a model by a config: joins data and loop, shows how it goes, exports a checkpoint folder.

Run as a program where only torch and its friends are installed: python -m pipelines.training_job CONFIG --out FOLDER
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.configs import find, load
from schemas.errors import FastslowError, InputError
from schemas.training import SceneData, ShardData, TrainConfig

if TYPE_CHECKING:
    from encoders.training.batches import Source
    from encoders.training.loop import Listener

logger = logging.getLogger(__name__)


def run(
    config: str,
    *,
    out: str,
    shards: Sequence[str] = (),
    validation_shards: Sequence[str] = (),
    settings: Sequence[str] = (),
    resume: bool = True,
    device: str | None = None,
    listener: "Listener | None" = None,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Trains, or says what an earlier run of the same config and data gave.

    Args:
      config: name in configs/train, or a YAML file.
      out: folder of the checkpoint.
      shards, validation_shards: for a config that trains on shards; laid over its own.
      settings: `key.path=value`, laid over the config.
      resume: go on from a checkpoint of the same run found in `out`.
      device: "cpu" keeps the run off the GPU.
      listener: told of losses and validations; None: a progress bar.
      stop_after: end after so many steps, the learning rate falling as for all of them.

    Returns:
      What `out`/training.json holds.

    Raises:
      InputError: it trains on shards, and none are given; or data that cannot be had.
    """
    chosen = read_config(config, shards=shards, validation_shards=validation_shards, settings=settings)
    if isinstance(chosen.data, ShardData) and not (chosen.data.train and chosen.data.validation):  # torch loads slowly
        raise InputError(
            f"{chosen.name}: expected shards to train on and to validate on; give data.train and data.validation in "
            "the config, or --shards and --validation-shards"
        )
    from encoders.training.train import finished, run_digest, train

    source = open_source(chosen)
    done = finished(Path(out), run_digest(chosen, source.digest))
    if done is not None:
        logger.info("%s: trained already, fast R@1 %.1f", out, done["metrics"]["fast_r1"])
        return done
    if listener is not None:
        return train(chosen, source, Path(out), resume=resume, device=device, listener=listener, stop_after=stop_after)
    with _shown(chosen) as shown:
        return train(chosen, source, Path(out), resume=resume, device=device, listener=shown, stop_after=stop_after)


def read_config(
    config: str, *, shards: Sequence[str], validation_shards: Sequence[str], settings: Sequence[str]
) -> TrainConfig:
    """The config with everything of the command line laid over it."""
    given = [f"data.train={list(shards)}"] if shards else []
    given += [f"data.validation={list(validation_shards)}"] if validation_shards else []
    return load(TrainConfig, find("train", config), settings=[*given, *settings])


def open_source(config: TrainConfig) -> "Source":
    """The data of a config.

    Raises:
      InputError: it cannot be had.
    """
    from pipelines.training_sources import SceneSource, ShardSource, demo_captions

    if isinstance(config.data, SceneData):
        return SceneSource(config, holdout=demo_captions(config.data))
    assert isinstance(config.data, ShardData)  # noqa: S101  (the other member of the union)
    from encoders.training.build import pixel_spec

    return ShardSource(config, spec=pixel_spec(config.model))


class _shown:  # noqa: N801  (used like a function)
    """A progress bar with losses and ETA; validations as lines above it."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def __enter__(self) -> "Listener":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        from encoders.training.loop import Listener

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[losses]}"), console=console)
        self.progress.start()
        task = self.progress.add_task(self.config.name, total=self.config.steps, losses="")

        def logged(step: int, losses: dict[str, float]) -> None:
            text = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            self.progress.update(task, completed=step, losses=text)
            if not console.is_terminal:
                console.print(f"step {step}: {text}", highlight=False, soft_wrap=True)

        def validated(step: int, recall: Any) -> None:
            console.print(f"step {step}: {recall}", highlight=False, soft_wrap=True)

        return Listener(logged, validated)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Train a model by a config.")
    parser.add_argument("config", help="name in configs/train, or a YAML file")
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    parser.add_argument("--shards", nargs="*", default=[], help="to train on: URLs, brace patterns or globs")
    parser.add_argument("--validation-shards", nargs="*", default=[])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="laid over the config")
    parser.add_argument("--fresh", action="store_true", help="do not go on from a checkpoint")
    parser.add_argument("--device", choices=["cpu"], default=None)
    parser.add_argument("--stop-after", type=int, default=None, help="steps; the schedule stays that of all")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(
            given.config,
            out=given.out,
            shards=given.shards,
            validation_shards=given.validation_shards,
            settings=given.set,
            resume=not given.fresh,
            device=given.device,
            stop_after=given.stop_after,
        )
    except FastslowError as error:
        logger.error("%s", error)  # noqa: TRY400  (a message, not a traceback)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
