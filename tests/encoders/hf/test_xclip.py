"""X-CLIP's vectors against calling transformers directly."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, VideoMAEImageProcessorPil, XCLIPModel

from schemas.errors import ModelError


def test_video_vectors_equal_those_of_the_full_model(tiny_xclip, dual, texts, pictures):
    encoder = dual("xclip")
    clips = pictures(encoder.pixels, 3, 4)
    inputs = VideoMAEImageProcessorPil.from_pretrained(tiny_xclip)(
        [list(c) for c in clips.numpy()], return_tensors="pt"
    )
    tokens = AutoTokenizer.from_pretrained(tiny_xclip)(texts, padding=True, truncation=True, return_tensors="pt")
    model = XCLIPModel.from_pretrained(tiny_xclip).eval()
    with torch.inference_mode():
        expected = model(**inputs, **tokens).video_embeds
    np.testing.assert_allclose(encoder.encode_visual(clips)["embedding"], expected.numpy(), atol=1e-5)


def test_text_vectors_are_those_before_prompting_by_the_video(tiny_xclip, dual, texts):
    tokens = AutoTokenizer.from_pretrained(tiny_xclip)(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        features = XCLIPModel.from_pretrained(tiny_xclip).eval().get_text_features(**tokens).pooler_output
    expected = torch.nn.functional.normalize(features, dim=-1)
    np.testing.assert_allclose(dual("xclip").encode_text(texts)["embedding"], expected.numpy(), atol=1e-5)


def test_the_order_of_frames_matters(dual, pictures):
    encoder = dual("xclip")
    clips = pictures(encoder.pixels, 2, 4)
    assert (
        np.abs(encoder.encode_visual(clips)["embedding"] - encoder.encode_visual(clips.flip(1))["embedding"]).max()
        > 1e-3
    )


def test_a_picture_is_a_clip_that_stands_still(dual, pictures):
    encoder = dual("xclip")
    still = pictures(encoder.pixels, 2)
    np.testing.assert_allclose(
        encoder.encode_visual(still)["embedding"],
        encoder.encode_visual(still.expand(-1, 4, -1, -1, -1))["embedding"],
        atol=1e-6,
    )


def test_another_number_of_frames_is_refused(dual, pictures):
    with pytest.raises(ModelError, match="clips of 4 frames or pictures of 1, got 3"):
        dual("xclip").encode_visual(pictures(dual("xclip").pixels, 1, 3))
