"""SigLIP's and SigLIP 2's vectors against calling transformers directly."""

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Siglip2ImageProcessorPil, Siglip2Model, SiglipImageProcessorPil, SiglipModel


def tokens_of(folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(texts, padding="max_length", max_length=20, truncation=True, return_tensors="pt")


def test_siglip_vectors_equal_those_of_transformers(tiny_siglip, dual, texts):
    encoder = dual("siglip")
    pixels = np.random.default_rng(1).integers(0, 256, size=(3, 32, 32, 3), dtype=np.uint8)
    inputs = SiglipImageProcessorPil.from_pretrained(tiny_siglip)(
        [Image.fromarray(p) for p in pixels], return_tensors="pt"
    )
    with torch.inference_mode():
        expected = SiglipModel.from_pretrained(tiny_siglip).eval()(**inputs, **tokens_of(tiny_siglip, texts))
    found = encoder.encode_visual(torch.from_numpy(pixels[:, None]))["embedding"]
    np.testing.assert_allclose(found, expected.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(texts)["embedding"], expected.text_embeds.numpy(), atol=1e-5)


def test_siglip2_vectors_of_square_pictures_equal_those_of_transformers(tiny_siglip2, dual, texts):
    encoder = dual("siglip2")
    assert (encoder.pixels.height, encoder.pixels.width) == (32, 32)  # 4 x 4 of at most 18 patches
    pixels = np.random.default_rng(1).integers(0, 256, size=(3, 32, 32, 3), dtype=np.uint8)
    processor = Siglip2ImageProcessorPil.from_pretrained(tiny_siglip2)
    inputs = processor([Image.fromarray(p) for p in pixels], return_tensors="pt")
    with torch.inference_mode():
        expected = Siglip2Model.from_pretrained(tiny_siglip2).eval()(**inputs, **tokens_of(tiny_siglip2, texts))
    found = encoder.encode_visual(torch.from_numpy(pixels[:, None]))["embedding"]
    np.testing.assert_allclose(found, expected.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(texts)["embedding"], expected.text_embeds.numpy(), atol=1e-5)
