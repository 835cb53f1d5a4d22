"""Reading how a model wants its pictures, and turning bytes into its input."""

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from encoders.base import PixelSpec
from encoders.pixels import CLIP_MEAN, CLIP_STD, DEFAULTS, HALF, normalise, read_spec
from schemas.errors import ModelError

OPENAI_CLIP = {  # as published in 2021, before sizes were dictionaries
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
    "resample": 3,
    "size": 224,
}


def spec_from(folder, value, *, family="CLIP", name="preprocessor_config.json"):
    (folder / name).write_text(json.dumps(value))
    return read_spec(folder, family=family)


@pytest.mark.parametrize("family", DEFAULTS)
def test_defaults_are_those_of_transformers(family):
    kind = getattr(transformers, f"{family}ImageProcessorPil")
    theirs = kind()
    for key, value in DEFAULTS[family].items():
        expected = getattr(theirs, key, None) or False
        assert (tuple(expected) if isinstance(expected, list | tuple) else expected) == value, key


def test_the_oldest_clip_config_is_understood(tmp_path):
    assert spec_from(tmp_path, OPENAI_CLIP) == PixelSpec(224, 224, "crop", 224, "bicubic", CLIP_MEAN, CLIP_STD)


def test_an_integer_size_is_a_square_for_siglip_and_blip(tmp_path):
    for family in ("Siglip", "Blip"):
        stated = {"image_processor_type": f"{family}ImageProcessor", "size": 256}
        spec = spec_from(tmp_path, stated)
        assert (spec.height, spec.width, spec.resize) == (256, 256, "squash")


def test_xclip_is_read_as_its_video_processor(tmp_path):
    spec = spec_from(tmp_path, {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": 224}, family="CLIP")
    assert spec == PixelSpec(224, 224, "crop", 224, "bilinear", HALF, HALF)


@pytest.mark.parametrize("suffix", ["", "Fast", "Pil"])
def test_fast_and_slow_processors_are_the_same(tmp_path, suffix):
    spec = spec_from(tmp_path, {"image_processor_type": f"SiglipImageProcessor{suffix}"}, family="CLIP")
    assert spec == PixelSpec(224, 224, "squash", 0, "bicubic", HALF, HALF)


def test_a_processor_config_that_holds_the_image_processor_is_enough(tmp_path):
    stated = {"image_processor": {"image_processor_type": "BlipImageProcessor", "size": {"height": 48, "width": 64}}}
    spec = spec_from(tmp_path, stated, name="processor_config.json")
    assert (spec.height, spec.width, spec.mean) == (48, 64, CLIP_MEAN)


def test_without_normalisation_pixels_are_only_scaled(tmp_path):
    spec = spec_from(tmp_path, {**OPENAI_CLIP, "do_normalize": False})
    assert (spec.mean, spec.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_resize": False}, "do_resize: true"),
        ({"do_rescale": False}, "do_rescale: true"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor 1/255"),
        ({"resample": 9}, "resample: expected one of"),
        ({"do_center_crop": False}, "do_center_crop: true"),
        ({"crop_size": 256}, "would need padding"),
        ({"size": {"height": 256, "width": 256}}, "differs from a fixed size"),
        ({"size": {"longest_edge": 224}}, "expected shortest_edge, or height and width"),
    ],
)
def test_what_a_pixel_spec_cannot_say_is_refused(tmp_path, change, message):
    with pytest.raises(ModelError, match=message):
        spec_from(tmp_path, {**OPENAI_CLIP, **change})


def test_a_folder_without_a_processor_is_refused(tmp_path):
    with pytest.raises(ModelError, match="expected preprocessor_config.json"):
        read_spec(tmp_path, family="CLIP")


@settings(max_examples=30, deadline=None)
@given(
    pixels=arrays.arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(5), st.just(7), st.just(3))),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.1, 1)] * 3),
)
def test_normalising_is_scale_minus_mean_over_deviation(pixels, mean, std):
    spec = PixelSpec(5, 7, "squash", 0, "bicubic", mean, std)
    found = normalise(torch.from_numpy(pixels), spec, device="cpu", dtype=torch.float32)
    expected = (pixels / 255.0 - np.array(mean)) / np.array(std)
    assert found.is_contiguous()
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_normalising_equals_the_processor_of_transformers():
    pixels = np.random.default_rng(0).integers(0, 256, size=(2, 224, 224, 3), dtype=np.uint8)
    processor = transformers.CLIPImageProcessorPil()
    expected = processor([Image.fromarray(picture) for picture in pixels], return_tensors="pt")["pixel_values"]
    spec = PixelSpec(224, 224, "crop", 224, "bicubic", CLIP_MEAN, CLIP_STD)
    found = normalise(torch.from_numpy(pixels), spec, device="cpu", dtype=torch.float32)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_rounding_to_bfloat16_comes_last():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    spec = PixelSpec(16, 16, "squash", 0, "bicubic", CLIP_MEAN, CLIP_STD)
    exact = normalise(pixels, spec, device="cpu", dtype=torch.float32)
    assert torch.equal(normalise(pixels, spec, device="cpu", dtype=torch.bfloat16), exact.bfloat16())
