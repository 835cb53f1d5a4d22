"""The name of a model changes with what changes its vectors, and with nothing else."""

import json
import os

import pytest

from encoders.fingerprints import files_digest, model_fingerprint
from encoders.model_files import weight_files
from schemas.configs import EncoderConfig
from schemas.errors import ModelError
from schemas.layout import Layout


def name_of(folder, dtype="float32", **options):
    return model_fingerprint(EncoderConfig(path=str(folder)), dtype, **options)


def test_it_does_not_depend_on_the_folder_or_on_files_nobody_reads(copied, tiny_clip):
    folder = copied("clip")
    (folder / "README.md").write_text("about")
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert name_of(folder) == name_of(tiny_clip)
    assert len(name_of(folder)) == 64


def test_it_depends_on_the_dtype(tiny_clip):
    assert name_of(tiny_clip, "float32") != name_of(tiny_clip, "bfloat16")


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_it_depends_on_config_preprocessing_and_tokenizer(copied, file):
    folder = copied("clip")
    before = name_of(folder)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "added": 1}))
    assert name_of(folder) != before


def test_it_depends_on_the_last_byte_of_the_weights(copied):
    folder = copied("clip")
    before = name_of(folder)
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert name_of(folder) != before


def test_an_unchanged_weight_file_is_read_once(copied, tmp_path):
    folder, layout = copied("clip"), Layout(str(tmp_path / "root"), "demo")
    path = folder / "model.safetensors"
    before, stat = files_digest(folder, layout=layout), path.stat()
    assert before == files_digest(folder)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert files_digest(folder, layout=layout) == before  # size and mtime as before: not read again
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert files_digest(folder, layout=layout) != before


def test_a_sharded_model_is_all_of_its_parts(copied):
    folder = copied("clip")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert [path.name for path in weight_files(folder)] == [index.name, "model-00001-of-00001.safetensors"]
    (folder / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(ModelError, match="missing: model-00001-of-00001.safetensors"):
        name_of(folder)


def test_pickled_weights_are_refused_with_the_ways_out(copied):
    folder = copied("clip")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickles \(pytorch_model.bin\).*revision.*save_pretrained"):
        name_of(folder)
