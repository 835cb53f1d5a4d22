"""Versions are held against what an installed distribution asks for; what does not load says which module, and why."""

import compileall
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.doctor import environment

NUMPY = np.__version__


@pytest.fixture
def install(tmp_path, monkeypatch):
    """(requirements, Python) -> the name of a distribution that is installed and asks for them."""

    def make(requires: list[str], python: str = ">=3.11") -> str:
        folder = tmp_path / "toy_distribution-1.0.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.4", "Name: toy-distribution", "Version: 1.0", f"Requires-Python: {python}"]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires), "", ""]))
        monkeypatch.syspath_prepend(str(tmp_path))
        return "toy-distribution"

    return make


def test_versions_as_asked_for_are_well(install):
    name = install([f"numpy=={NUMPY}", "pyarrow>=1", "nothing-of-this-name; extra == 'cloud'"])
    assert environment.packages(name) == ("packages", "ok", "2 as asked for", "")
    assert environment.python(name).state == "ok"


def test_what_is_missing_or_of_another_version_is_named(install):
    found = environment.packages(install(["numpy<1,>=0.5", "nothing-of-this-name>=2", "pyarrow>=1"]))
    assert found.state == "error"
    assert found.found == f"numpy is {NUMPY}, expected <1,>=0.5; nothing-of-this-name is not installed"
    assert found.remedy == "make, or pip install 'numpy<1,>=0.5' 'nothing-of-this-name>=2'"


def test_another_python_is_an_error(install):
    found = environment.python(install([], python=">=3.99"))
    assert (found.state, found.found.split(", ")[1]) == ("error", "expected >=3.99")


def test_without_an_installed_distribution_nothing_is_claimed():
    for look in (environment.python, environment.packages):
        assert look("nothing-of-this-name").state == "warning"


def test_what_we_ask_for_is_understood():
    """Of the real distribution, whatever this environment lacks: every requirement is parsed and looked up."""
    found = environment.packages()
    assert found.state in ("ok", "error")
    assert "numpy" not in found.found
    assert environment.python().state == "ok"


@pytest.mark.parametrize(("kept", "state"), [(True, "ok"), (False, "warning")])
def test_bytecode_that_is_not_kept_is_told_until_it_is_there(tmp_path, monkeypatch, kept, state):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", not kept)
    package = tmp_path / "toy_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert environment.compiled("toy_package").state == state
    assert compileall.compile_dir(package, quiet=2)
    assert environment.compiled("toy_package").state == "ok"


def test_modules_that_load_are_named():
    found = environment.loaded("a stage", ("json", "pyarrow.parquet"))
    assert found == (("loads: a stage", "ok", "json, pyarrow load in one process", ""), None)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.py", b"import no_such_library_here", "broken does not load: ModuleNotFoundError: .*no_such_library"),
        ("broken.py", b"import os; os.abort()", "broken does not load: signal 6"),
        ("broken.py", b"import time; time.sleep(60)", "not loaded after 1 s"),
        ("broken.abi3.so", b"\x7fELF cut off", "broken does not load: ImportError: .*too short"),
    ],
    ids=["import error", "abort", "hangs", "library cut off"],
)
def test_a_module_that_does_not_load_is_named_with_the_reason(name, content, said, tmp_path, monkeypatch):
    Path(tmp_path, name).write_bytes(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(environment, "LOAD_S", 1.0 if b"sleep" in content else 60.0)
    found = environment.loaded("a stage", ("json", "broken", "string"))
    assert found.torch is None
    assert found.finding.state == "error"
    assert re.search(said, found.finding.found), found
