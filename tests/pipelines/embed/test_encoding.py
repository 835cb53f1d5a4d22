"""One batch: what can be encoded is, what cannot is named with the step and reason, and neighbours do not notice."""

import numpy as np
import pytest
import torch

from pipelines.embed.batches import Batch
from pipelines.embed.encoding import BatchEncoder, Row
from schemas.configs import Embed
from schemas.errors import ConfigError, ModelError
from schemas.rejects import Reject
from schemas.samples import Sample


def batch(*files: tuple[str, bytes]) -> Batch:
    made = Batch()
    for number, (suffix, data) in enumerate(files):
        made.add(number, Sample(f"k{number}", "s.tar", number, suffix, data, 512, len(data), ("a caption",), "{}"))
    return made


def test_rows_carry_what_the_sample_and_the_decoder_said(kit):
    [(number, row)] = BatchEncoder(kit.ProjectionEncoder(), Embed())(batch(("jpg", kit.jpeg(1, width=60, height=50))))
    assert number == 0
    assert isinstance(row, Row)
    assert (row.key, row.position, row.offset, row.captions, row.metadata) == ("k0", 0, 512, ("a caption",), "{}")
    assert (row.modality, row.width, row.height, row.duration_s, row.frame_times_s) == ("image", 60, 50, 0.0, ())
    assert len(row.content_sha256) == 64


def test_vectors_are_those_of_the_encoder_in_float16(kit):
    encoder = kit.ProjectionEncoder({"embedding": 12, "embedding_4": 4})
    files = [("jpg", kit.jpeg(n)) for n in range(5)]
    rows = [row for _, row in BatchEncoder(encoder, Embed())(batch(*files))]
    alone = [BatchEncoder(encoder, Embed())(batch(file))[0][1] for file in files]
    for row, other in zip(rows, alone, strict=True):
        assert {name: v.shape for name, v in row.vectors.items()} == {"embedding": (12,), "embedding_4": (4,)}
        for name, values in row.vectors.items():
            assert values.dtype == np.float16
            np.testing.assert_allclose(values, other.vectors[name], atol=1e-3)
            assert np.linalg.norm(values.astype(np.float32)) == pytest.approx(1, abs=2e-3)


def test_a_picture_that_cannot_be_decoded_is_a_reject_and_its_neighbours_are_rows(kit):
    results = BatchEncoder(kit.ProjectionEncoder(), Embed())(
        batch(("jpg", kit.jpeg(1)), ("jpg", b"not a picture"), ("jpg", kit.jpeg(2)))
    )
    kinds = [type(item) for _, item in results]
    assert kinds == [Row, Reject, Row]
    refused = results[1][1]
    assert (refused.key, refused.stage, refused.position, refused.size) == ("k1", "decode", 1, 13)
    assert refused.error == "NotAnImage"


def test_content_decides_what_is_a_video(kit):
    encoder = kit.ProjectionEncoder()
    results = BatchEncoder(encoder, Embed(frames=3))(batch(("jpg", kit.jpeg(1)), ("jpg", kit.moving_gif(1))))
    assert [row.modality for _, row in results] == ["image", "video"]
    assert sorted(shape[:2] for shape in encoder.batches) == [(1, 1), (1, 3)]
    assert len(results[1][1].frame_times_s) == 3


def test_a_sample_that_makes_the_model_raise_is_found_by_halving(kit):
    class Picky(kit.ProjectionEncoder):
        def encode_visual(self, pixels):
            if (pixels.flatten(1).amax(1) == 0).any():
                raise RuntimeError("a black picture in the batch")
            return super().encode_visual(pixels)

    files = [("jpg", kit.jpeg(n)) for n in range(11)]
    files[6] = ("png", kit.black())
    results = BatchEncoder(Picky(), Embed())(batch(*files))
    assert [number for number, item in results if isinstance(item, Reject)] == [6]
    refused = results[6][1]
    assert (refused.stage, refused.error, refused.message) == ("encode", "RuntimeError", "a black picture in the batch")


def test_a_vector_without_direction_is_a_reject(kit):
    results = BatchEncoder(kit.ProjectionEncoder(), Embed())(batch(("png", kit.black()), ("jpg", kit.jpeg(1))))
    refused, row = results[0][1], results[1][1]
    assert (refused.stage, refused.error) == ("encode", "BadVector")
    assert isinstance(row, Row)


def test_a_model_that_fails_on_everything_blames_no_sample(kit):
    class Broken(kit.ProjectionEncoder):
        def encode_visual(self, pixels):
            raise RuntimeError("device lost")

    with pytest.raises(ModelError, match="none of 3 pictures.*device lost"):
        BatchEncoder(Broken(), Embed())(batch(*[("jpg", kit.jpeg(n)) for n in range(3)]))


def test_our_own_errors_are_not_halved(kit):
    class Misconfigured(kit.ProjectionEncoder):
        def encode_visual(self, pixels):
            raise ConfigError("frames: expected 8")

    with pytest.raises(ConfigError, match="expected 8"):
        BatchEncoder(Misconfigured(), Embed())(batch(("jpg", kit.jpeg(1)), ("jpg", kit.jpeg(2))))


def test_a_batch_that_does_not_fit_the_device_is_halved_until_it_does(kit):
    class Small(kit.ProjectionEncoder):
        def encode_visual(self, pixels):
            if len(pixels) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().encode_visual(pixels)

    encoder = Small()
    results = BatchEncoder(encoder, Embed())(batch(*[("jpg", kit.jpeg(n)) for n in range(7)]))
    assert all(isinstance(item, Row) for _, item in results)
    assert {shape[0] for shape in encoder.batches} == {1, 2}


def test_one_picture_that_does_not_fit_alone_is_an_error(kit):
    class Tiny(kit.ProjectionEncoder):
        def encode_visual(self, pixels):
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        BatchEncoder(Tiny(), Embed())(batch(("jpg", kit.jpeg(1)), ("jpg", kit.jpeg(2))))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_vectors_are_the_same_within_rounding(kit):
    class OnGpu(kit.ProjectionEncoder):
        device = torch.device("cuda")

        def encode_visual(self, pixels):
            assert pixels.is_cuda
            return super().encode_visual(pixels.cpu())

    files = batch(*[("jpg", kit.jpeg(n)) for n in range(4)])
    here, there = (BatchEncoder(e, Embed())(files) for e in (kit.ProjectionEncoder(), OnGpu()))
    for (_, a), (_, b) in zip(here, there, strict=True):
        np.testing.assert_allclose(a.vectors["embedding"], b.vectors["embedding"], atol=2e-3)
