"""The command under the name that schedulers call it by."""

import stat
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def make_command(tmp_path_factory):
    """Writes an executable `fastslow` that runs this checkout's command, with options added at the end."""

    def make(*options: str) -> Path:
        path = tmp_path_factory.mktemp("bin") / "fastslow"
        path.write_text(
            f'#!/bin/sh\nPYTHONPATH={REPO} exec {sys.executable} -m pipelines.cli "$@" {" ".join(options)}\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make
