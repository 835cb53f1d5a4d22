"""What a program can check of the house style: imports point one way, files say what they are for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for room in ("schemas", "encoders", "pipelines") for path in (REPO / room).rglob("*.py"))
ALLOWED = {
    "schemas": {"schemas"},
    "encoders": {"schemas", "encoders"},
    "pipelines": {"schemas", "encoders", "pipelines"},
}
HEAVY = {
    "schemas": {"torch", "transformers", "apache_beam", "faiss", "autofaiss"},
    "encoders": {"apache_beam", "faiss", "autofaiss"},
}
LADDER = ["runners", "webdataset", "embed", "index", "rerank", "evaluate", "reindex", "cli"]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_point_one_way(path):
    room = path.relative_to(REPO).parts[0]
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots & {"schemas", "encoders", "pipelines", "tests", "benchmarks"} <= ALLOWED[room]
    assert not roots & HEAVY.get(room, set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_inside_pipelines_imports_point_down_the_ladder(path):
    parts = path.relative_to(REPO).parts
    if parts[0] != "pipelines" or Path(parts[1]).stem not in LADDER:
        return
    own = LADDER.index(Path(parts[1]).stem)
    for name in imported(path):
        steps = name.split(".")
        if len(steps) > 1 and steps[0] == "pipelines" and steps[1] in LADDER:
            assert LADDER.index(steps[1]) <= own, f"{path} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_beam_is_wiring_only_and_the_index_knows_no_torch(path):
    roots = {name.split(".")[0] for name in imported(path)}
    if "apache_beam" in roots:
        assert path.name == "transforms.py" or path.parent.name == "runners"
    if path.parent.name == "index":
        assert "torch" not in roots


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_every_file_says_what_it_is_for(path):
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
    assert first
    assert len(first[0]) > 20
    assert path.stem not in {"utils", "helpers", "common", "misc"}


def test_the_schemas_import_nothing_heavy():
    script = "import sys, pkgutil, importlib, schemas\n" \
        "for m in pkgutil.iter_modules(schemas.__path__): importlib.import_module('schemas.' + m.name)\n" \
        "print(sorted({'torch', 'transformers', 'apache_beam', 'faiss', 'autofaiss'} & set(sys.modules)))"  # fmt: skip
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPO, check=True)
    assert out.stdout.strip() == "[]"
