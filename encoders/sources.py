"""Where a model's files are: shipped with fastslow, in a local folder, or in a snapshot of a hub repository.

Light on purpose (no torch, no transformers): "is this done already?" must be answered in seconds.
"""

from pathlib import Path

from encoders.hub import cached, snapshot
from encoders.model_files import read_json
from schemas.configs import EncoderConfig
from schemas.errors import ConfigError, ModelError

BUILTIN = "builtin:"


def builtin_names() -> list[str]:
    """Names of the models shipped with fastslow."""
    folder = Path(__file__).resolve().parent / "checkpoints"
    return sorted(path.parent.name for path in folder.glob("*/config.json"))


def resolve(config: EncoderConfig) -> Path:
    """The local folder that holds a model's files; a hub model is fetched once and then used offline.

    `builtin:NAME` is `encoders/checkpoints/NAME`; an existing folder is itself; anything else is a hub id, taken
    from the local cache when it is complete there, else downloaded (safetensors and text files only).

    Raises:
      ConfigError: an unknown built-in name.
      ModelError: no such folder, the hub cannot be reached and the cache has no copy, or there are no safetensors.
    """
    return present(config) or snapshot(config.path, config.revision)


def present(config: EncoderConfig) -> Path | None:
    """The folder that holds a model's files without asking the hub; None for a hub model that is not in the cache.

    Raises:
      ConfigError: an unknown built-in name.
      ModelError: a folder without a config.json, or neither a folder nor a hub id.
    """
    if config.path.startswith(BUILTIN):
        name = config.path.removeprefix(BUILTIN)
        if name not in builtin_names():
            known = ", ".join(builtin_names()) or "none"
            raise ConfigError(f"{config.path}: expected a model shipped with fastslow; known: {known}")
        return Path(__file__).resolve().parent / "checkpoints" / name
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{config.path}: expected a model folder with a config.json, found none")
        return folder
    return cached(config.path, config.revision)


def model_type(config: EncoderConfig) -> str:
    """The `model_type` a model's config.json states.

    Raises:
      ModelError: config.json is not JSON or states none.
    """
    folder = resolve(config)
    found = read_json(folder / "config.json").get("model_type")
    if not isinstance(found, str):
        raise ModelError(f"{folder / 'config.json'}: expected a model_type, got {found!r}")
    return found
