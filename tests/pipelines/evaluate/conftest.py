"""The coloured world of the rerank tests, as fixtures."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from encoders import registry


@pytest.fixture
def colours(monkeypatch) -> ModuleType:
    """The module, its model registered like any other."""
    name = "fastslow_colour_world"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "rerank" / "colour_world.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    module = sys.modules[name]
    entry = registry.Entry(dual=lambda: module.ColourModel, scorer=lambda: module.ColourModel)
    monkeypatch.setitem(registry.MODEL_TYPES, "test-colour", entry)
    return module


@pytest.fixture
def world(colours, tmp_path):
    return colours.make_world(tmp_path / "world", items=60, depth=10)
