"""Models that are here, in the cache, to be had, or not; the hub is one on the loopback, or none."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from encoders.sources import builtin_names
from pipelines.doctor import models
from schemas.configs import EncoderConfig

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = "people/tiny-clip"


@pytest.mark.parametrize("name", builtin_names())
def test_what_is_shipped_is_well_on_both_sides(name):
    for side in ("encoder", "scorer"):
        found = models.look(side, EncoderConfig(path=f"builtin:{name}"))
        assert (found.check, found.state) == (side, "ok")


def test_a_model_that_cannot_be_what_it_is_wanted_for_is_an_error(tiny_clip, tiny_blip):
    assert models.look("encoder", EncoderConfig(path=str(tiny_clip))).state == "ok"
    found = models.look("scorer", EncoderConfig(path=str(tiny_clip)))
    assert (found.state, "'clip' cannot be one" in found.found, "blip" in found.remedy) == ("error", True, True)
    assert models.look("scorer", EncoderConfig(path=str(tiny_blip))).state == "ok"
    assert models.look("encoder", EncoderConfig(path=str(tiny_blip))).state == "error"


def test_what_is_missing_in_a_folder_is_said(tiny_clip, tmp_path):
    def said(path: Path | str) -> str:
        found = models.look("encoder", EncoderConfig(path=str(path)))
        assert found.state == "error"
        return found.found

    folder = tmp_path / "model"
    shutil.copytree(tiny_clip, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "only pickles" in said(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    (folder / "config.json").write_text("{")
    assert "not JSON" in said(folder)
    (folder / "config.json").write_text('{"model_type": "no-such-type"}')
    assert "'no-such-type' cannot be one" in said(folder)
    (folder / "config.json").unlink()
    assert "found none" in said(folder)
    assert "known: demo-" in said("builtin:no-such-model")
    assert "expected an existing folder" in said(tmp_path / "nowhere")


PROGRAM = """
import json, sys
from pipelines.doctor import models
from schemas.configs import EncoderConfig
models.HUB_S = 1.0
print(json.dumps(models.look("encoder", EncoderConfig(path=sys.argv[1]))))
"""


@pytest.fixture
def ask(tmp_path):
    """(endpoint) -> what is found of a hub model, in a fresh process with a cache of its own."""

    def run(endpoint: str) -> list[str]:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint}
        command = [sys.executable, "-c", PROGRAM, REPOSITORY]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def hub(http_server):
    """(whether it has the repository) -> URL of a hub."""

    def start(*, known: bool = True) -> str:
        def answer(path: str) -> bytes | None:
            found = known and path.startswith(f"/api/models/{REPOSITORY}/revision/main")
            return json.dumps({"id": REPOSITORY, "sha": "a" * 40, "siblings": []}).encode() if found else None

        return f"http://{http_server(answer)}"

    return start


def test_a_hub_model_is_to_be_had_where_the_hub_answers_and_nothing_is_fetched(ask, hub, tmp_path):
    assert ask(hub())[:3] == ["encoder", "ok", f"{REPOSITORY}: not in the cache, the hub has it"]
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("trouble", ["down", "unknown", "silent"])
def test_a_hub_that_does_not_give_it_is_an_error_with_both_ways_out(ask, hub, trouble):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        port = {"down": 9, "silent": silent.getsockname()[1]}.get(trouble)
        check, state, said, _ = ask(f"http://127.0.0.1:{port}" if port else hub(known=False))
    assert (check, state) == ("encoder", "error")
    assert "connect this machine to the hub" in said
    assert "set `path` to it" in said


def test_a_model_in_the_cache_is_well_without_a_hub(ask, tiny_clip, tmp_path):
    folder = tmp_path / "hf" / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    shutil.copytree(tiny_clip, folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    check, state, said, _ = ask("http://127.0.0.1:9")
    assert (check, state) == ("encoder", "ok")
    assert said.startswith(f"{REPOSITORY}: clip, ")
