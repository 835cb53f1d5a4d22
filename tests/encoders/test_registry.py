"""Finding a model's adapter, and what is said when there is none."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from encoders.registry import MODEL_TYPES, load_dual, load_scorer, model_type, resolve
from schemas.configs import EncoderConfig
from schemas.errors import ConfigError, ModelError

ROOT = Path(__file__).resolve().parents[2]


def exact(folder) -> EncoderConfig:
    return EncoderConfig(path=str(folder), dtype="float32")


def change(folder) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] *= -1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_every_entry_has_a_documented_adapter(name):
    makers = [make for make in MODEL_TYPES[name] if make is not None]
    assert makers
    for make in makers:
        assert make().__doc__


def test_the_registry_itself_imports_no_torch():
    program = (
        "import sys, encoders.registry; print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_model_type_names_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "flava"}')
    for load in (load_dual, load_scorer):
        with pytest.raises(ModelError, match=r"unknown model type 'flava'; known: blip, clip, .*siglip2, xclip"):
            load(exact(tmp_path))


def test_a_model_that_cannot_play_the_part_names_those_that_can(tiny_clip, tiny_blip):
    with pytest.raises(ModelError, match=r"'clip' cannot be a pair scorer; types that can: blip, fastslow-"):
        load_scorer(exact(tiny_clip))
    with pytest.raises(ModelError, match=r"'blip' cannot be a dual encoder; types that can: clip, "):
        load_dual(exact(tiny_blip))


def test_a_local_folder_is_itself(tiny_clip):
    assert resolve(exact(tiny_clip)) == tiny_clip
    assert model_type(exact(tiny_clip)) == "clip"


def test_an_unknown_builtin_names_the_known_ones():
    with pytest.raises(ConfigError, match="builtin:nothing: expected a model shipped with fastslow; known: "):
        resolve(EncoderConfig(path="builtin:nothing"))


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match="with a config.json, found none"):
        resolve(exact(tmp_path))


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("[]", "JSON object"), ("{}", "a model_type")])
def test_a_broken_config_is_refused(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        model_type(exact(tmp_path))


def test_a_missing_weight_is_an_error_not_a_random_number(copied):
    folder = copied("clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match="expected the weights of a CLIPModel, 1 are missing.*visual_projection.weight"
    ):
        load_dual(exact(folder))


def test_a_weight_of_another_shape_is_an_error(copied):
    folder = copied("clip")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "projection_dim": 12}))
    with pytest.raises(ModelError, match="CLIPModel"):
        load_dual(exact(folder))


def test_cut_weights_are_an_error(copied):
    folder = copied("clip")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded as CLIPModel"):
        load_dual(exact(folder))


def test_a_model_without_tokenizer_is_an_error(copied):
    folder = copied("clip")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_dual(exact(folder))


def test_a_model_in_use_is_handed_out_again_and_let_go_of_afterwards(copied):
    folder = copied("clip")
    change(folder)  # or another test may hold the same
    config = exact(folder)
    first = load_dual(config)
    assert load_dual(config) is first
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def test_a_changed_model_is_loaded_anew(copied):
    folder = copied("clip")
    first = load_dual(exact(folder))
    change(folder)
    assert load_dual(exact(folder)).fingerprint != first.fingerprint
