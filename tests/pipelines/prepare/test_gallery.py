"""Nothing in the gallery can be mistaken for anything else in it."""

from collections import Counter

import pytest

from pipelines.prepare import clips, gallery, scenes
from schemas.errors import ConfigError


def test_no_caption_of_the_gallery_is_true_of_another_item():
    shown = gallery.gallery_scenes(images=400, seed=1)
    moving = gallery.gallery_clips(videos=200, seed=1)
    true = Counter(text for scene in shown for text in scenes.true_captions(scene))
    true += Counter(text for clip in moving for text in clips.true_captions(clip))
    captions = [*map(scenes.caption, shown), *map(clips.caption, moving)]
    assert len(captions) == len(set(captions)) == 600
    assert all(true[text] == 1 for text in captions)
    assert gallery.gallery_captions(images=400, videos=200, seed=1) == set(captions)


def test_a_longer_gallery_begins_with_the_shorter():
    assert gallery.gallery_scenes(images=43, seed=2) == gallery.gallery_scenes(images=80, seed=2)[:40]


def test_a_gallery_too_large_to_be_told_apart_is_refused(monkeypatch):
    monkeypatch.setattr(gallery, "MAX_DRAWS", 20)
    with pytest.raises(ConfigError, match="ask for fewer"):
        gallery.gallery_clips(videos=4000, seed=0)
