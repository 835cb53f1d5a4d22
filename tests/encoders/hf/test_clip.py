"""CLIP's vectors against calling transformers directly."""

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel


def test_vectors_equal_those_of_transformers(tiny_clip, dual, texts):
    encoder = dual("clip")
    pixels = np.random.default_rng(1).integers(0, 256, size=(3, 40, 40, 3), dtype=np.uint8)  # as large as the resize
    inputs = CLIPImageProcessorPil.from_pretrained(tiny_clip)([Image.fromarray(p) for p in pixels], return_tensors="pt")
    inputs |= AutoTokenizer.from_pretrained(tiny_clip)(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = CLIPModel.from_pretrained(tiny_clip).eval()(**inputs)
    found = encoder.encode_visual(torch.from_numpy(pixels[:, None, 4:36, 4:36]))["embedding"]
    np.testing.assert_allclose(found, expected.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(texts)["embedding"], expected.text_embeds.numpy(), atol=1e-5)


def test_a_clips_vector_is_the_mean_of_its_frames_vectors(dual, pictures):
    encoder = dual("clip")
    clips = pictures(encoder.pixels, 2, 5)
    frames = np.stack([encoder.encode_visual(clips[:, i : i + 1])["embedding"] for i in range(5)], axis=1)
    mean = frames.mean(axis=1)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_visual(clips)["embedding"], expected, atol=1e-5)


def test_a_clip_that_stands_still_is_its_picture(dual, pictures):
    encoder = dual("clip")
    still = pictures(encoder.pixels, 3)
    np.testing.assert_allclose(
        encoder.encode_visual(still.expand(-1, 4, -1, -1, -1))["embedding"],
        encoder.encode_visual(still)["embedding"],
        atol=1e-5,
    )
