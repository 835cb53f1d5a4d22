"""From names on a command line to a Job: configs found and read, overrides laid over them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from schemas.configs import DatasetConfig, EncoderConfig, RunnerConfig, find, load
from schemas.errors import ConfigError
from schemas.jobs import Job, Runner
from schemas.layout import Layout

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def resolve_job(
    dataset: str,
    beam_args: Sequence[str] | None = None,
    *,
    root: str,
    runner: str | None = None,
    shards: Sequence[str] | None = None,
    queries: str | None = None,
    encoder: str | None = None,
    scorer: str | None = None,
    settings: Sequence[str] | None = None,
) -> Job:
    """The job that a command line describes.

    Args:
      dataset: a name in configs/datasets, or a YAML file.
      beam_args: Beam's own options, `--name=value`; laid over the runner's.
      root: output root, a folder, `s3://bucket/prefix` or `gs://bucket/prefix`.
      runner: a name in configs/runners, or a YAML file; None: this machine, or what beam_args say.
      shards: replace the config's shards (and what it would prepare).
      queries: replaces the config's query log.
      encoder: replaces the config's encoder; where the config uses one model for both sides, it becomes the
        scorer as well.
      scorer: replaces the config's scorer; "none" switches reranking off.
      settings: `key.path=value` laid over the dataset config.

    Raises:
      ConfigError: a name is unknown, a value does not fit, or an argument belongs to no option.
    """
    config = load(DatasetConfig, find("datasets", dataset), settings=settings or ())
    shared = config.scorer == config.encoder
    changes: dict[str, object] = {}
    if shards:
        changes |= {"shards": tuple(shards), "prepare": None}
    if queries:
        changes["queries"] = config.queries.model_copy(update={"log": queries})
    if encoder:
        changes["encoder"] = encoder
    if scorer or (encoder and shared):
        changes["scorer"] = None if scorer == "none" else scorer or encoder
    config = config.model_copy(update=changes)
    return Job(
        dataset=config,
        encoder=resolve_encoder(config.encoder),
        scorer=resolve_encoder(config.scorer, side="scorer") if config.scorer else None,
        layout=Layout(root, config.name),
        runner=resolve_runner(runner, beam_args, title=config.name),
    )


def resolve_runner(name: str | None, beam_args: Sequence[str] | None = None, *, title: str = "job") -> Runner:
    """Where pipelines run, by the name of a preset, with Beam's own options over it.

    Raises:
      ConfigError: the name is unknown, or an argument belongs to no option.
    """
    _refuse_stray(beam_args or ())
    preset = load(RunnerConfig, find("runners", name)) if name is not None else RunnerConfig()
    arguments = _laid_over(preset.arguments(), beam_args or ())
    if preset.processes != 1 and any(argument.startswith("--runner") for argument in arguments):
        raise ConfigError(f"runner {name}: its {preset.processes} processes are of this machine; leave --runner out")
    return Runner(title, arguments, preset.processes, preset.shared_folders)


def _laid_over(preset: Sequence[str], beam_args: Sequence[str]) -> tuple[str, ...]:
    """Arguments behind the preset's, without those of it that they name again.

    The last of a plain option counts for Beam anyway; of an option that is a list of `key=value` it would take both.

    >>> _laid_over(["--experiments=a", "--service=gpu=l4"], ["--experiments=b", "--service=gpu=t4"])
    ('--experiments=a', '--experiments=b', '--service=gpu=t4')
    """
    keys = {tuple(argument.split("=")[:2]) for argument in beam_args if argument.count("=") > 1}
    kept = [argument for argument in preset if argument.count("=") < 2 or tuple(argument.split("=")[:2]) not in keys]
    return (*kept, *beam_args)


def _refuse_stray(beam_args: Sequence[str]) -> None:
    """Beam drops what it does not understand; a value behind no option is most likely meant for one of ours."""
    for before, argument in zip(("", *beam_args), beam_args, strict=False):
        if not argument.startswith("-") and (not before.startswith("--") or "=" in before):
            raise ConfigError(
                f"unexpected argument {argument!r}: Beam's options look like --name=value, after --; "
                "an option that is given several times, such as --set, is repeated before each value"
            )


def layout_of(dataset: str, root: str) -> Layout:
    """Where a dataset's things are, given by its name or by its config file.

    Raises:
      ConfigError: the file is missing or wrong, or the name cannot be a folder.
    """
    is_file = dataset.endswith((".yaml", ".yml"))
    return Layout(root, load(DatasetConfig, find("datasets", dataset)).name if is_file else dataset)


def resolve_encoder(name: str, *, side: Literal["encoder", "scorer"] = "encoder") -> EncoderConfig:
    """A model by config name, YAML file, checkpoint folder or `builtin:<name>`.

    Args:
      side: what it is wanted for; for messages.

    Raises:
      ConfigError: none of these.
    """
    if name.startswith("builtin:") or Path(name, "config.json").is_file():
        return EncoderConfig(path=name)
    if Path(name).is_dir():
        raise ConfigError(f"{name}: no config.json in this folder; expected a checkpoint as save_pretrained writes it")
    if "/" in name and not name.endswith((".yaml", ".yml")):
        hub = f", or, of a hub model, a YAML file that says path: {name}" if _HUB_ID.fullmatch(name) else ""
        raise ConfigError(f"{side} {name}: no such folder; expected a checkpoint as save_pretrained writes it{hub}")
    return load(EncoderConfig, find("encoders", name, what=side))
