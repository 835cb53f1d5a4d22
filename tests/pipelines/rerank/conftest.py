"""The coloured world as fixtures."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from encoders import registry


def _load() -> ModuleType:
    name = "fastslow_colour_world"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "colour_world.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def colours(monkeypatch) -> ModuleType:
    """The module, its model registered like any other."""
    module = _load()
    entry = registry.Entry(dual=lambda: module.ColourModel, scorer=lambda: module.ColourModel)
    monkeypatch.setitem(registry.MODEL_TYPES, "test-colour", entry)
    return module


@pytest.fixture
def world(colours, tmp_path):
    return colours.make_world(tmp_path / "world")
