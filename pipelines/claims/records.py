"""What is kept of a training in the repository: its config, versions, dev metrics, and what it reached on test.

No folder and no host of the machine it ran on: of a path only the last part stays.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.commits import encode_json, publish_bytes

LEFT_OUT = ("command", "name")
PATHS = ("train", "validation", "initial", "feature_folder", "vision", "text", "root")
"""Settings that name files, folders or hub ids."""


def record_of(training: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training.json, what may be published."""
    kept: dict[str, Any] = without_folders({key: value for key, value in training.items() if key not in LEFT_OUT})
    return kept


def without_folders(value: Any, key: str = "") -> Any:
    """Values with paths cut to their last part; ids of the hub ("owner/name") stay."""
    if isinstance(value, Mapping):
        return {name: without_folders(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner, key) for inner in value]
    if isinstance(value, str) and key in PATHS and not _of_the_hub(value):
        return value.rstrip("/").rsplit("/", 1)[-1]
    return value


def _of_the_hub(value: str) -> bool:
    owner, _, name = value.partition("/")
    return bool(owner) and owner[0].isalnum() and "/" not in name and not name.endswith((".tar", ".gz"))


def keep(path: Path, training: Mapping[str, Any], test: Mapping[str, float]) -> None:
    """Writes the record of a training; what an earlier run measured of the same weights on test stays beside `test`."""
    record, before = record_of(training), read(path)
    reached = dict(before.get("test", {})) if before.get("digest") == record.get("digest") else {}
    publish_bytes(encode_json(record | {"test": reached | dict(test)}), str(path))


def read(path: Path) -> dict[str, Any]:
    """A record; empty where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def read_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record of a folder by the name of its file, `<training>-<seed>`, sorted."""
    return {path.stem: read(path) for path in sorted(folder.glob("*-*.json"))}
