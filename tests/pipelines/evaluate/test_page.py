"""The page: well formed, complete, without anything from outside, and hostile texts are only texts."""

import io
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.evaluate.page import render
from pipelines.evaluate.report_data import (
    Curve,
    CurvePoint,
    Estimate,
    Headline,
    IndexFacts,
    Loss,
    Measure,
    ModelName,
    RejectExample,
    RejectGroup,
    ReportData,
    Result,
    SampleQuery,
    ShardLedger,
    StageQuality,
)

HOSTILE = "</title></style>\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}&lt;\x00\u202e\ud800"


class Page(HTMLParser):
    """Tags with their attributes, texts, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "br", "link", "line", "path"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())


def jpeg(colour):
    data = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(data, "JPEG")
    return data.getvalue()


def result(rank, *, text="a red circle", relevant=False, moved=None, thumbnail=None, key="scene-1"):
    return Result(rank, key, "image", (text,), thumbnail, 0.5, None if moved is None else 1.25, relevant, moved)


def report(text="a red circle left of a blue square", **changes):
    """A small report; `text` is put wherever somebody else's words can come in."""
    stages = tuple(
        StageQuality(name, "note", {k: Estimate(v, v - 0.02, v + 0.02) for k in (1, 5, 10)}, 2.0, Estimate(v, v, v))
        for name, v in (("exact", 0.452), ("index", 0.449), ("rerank", 0.76), ("fused", 0.784))
    )
    points = (CurvePoint("nprobe=1", 0.6, 0.02), CurvePoint("nprobe=8", 0.96, 0.1))
    fast = (result(1, text=text), result(2, text=text), result(9, text=text, relevant=True))
    final = (result(1, text=text, relevant=True, moved=8, thumbnail=jpeg("red")), result(2, text=text, moved=-1))
    data = ReportData(
        dataset="demo",
        number=3,
        parent=2,
        created="2025-11-21T03:14:07+00:00",
        encoder=ModelName("builtin:demo", "ab12cd34ef567890" * 4),
        scorer=ModelName("builtin:slow", "ef567890ab12cd34" * 4),
        images=2000,
        videos=240,
        seen=2251,
        rejected=11,
        headlines=(Headline("R@1", 0.449, 0.784, Estimate(0.335, 0.31, 0.36)), Headline("R@5", 0.9, 0.88)),
        stages=stages,
        losses=(Loss("index", "not found", 12, 0.0075),),
        measures=(Measure("Mean reciprocal rank", "0.61", "0.83"),),
        queries=2000,
        measured=1600,
        measured_on="test",
        depth=20,
        beta=3.71,
        beta_source="fit",
        pair_evaluations=40_000,
        reused_pairs=39_000,
        items_encoded=2104,
        index=IndexFacts(
            "IVF64,Flat",
            "nprobe=8",
            2240,
            256,
            0.957,
            10,
            0.95,
            2_400_000,
            (Curve("text queries", points, "nprobe=8"),),
        ),
        shards=(ShardLedger(f"{text}.tar", 2251, 2000, 240, 11, 2, 1),),
        rejects=(RejectGroup("decode", "TruncatedImage", 11, (RejectExample(text, text, text),)),),
        samples=(SampleQuery(text, 7, True, "better", 9, 1, fast, final),),
        seconds={"embed": 41.2, "rerank": 754.0},
        config={"name": "demo", "note": text.replace("\ud800", "").replace("\x00", "")},
        digests={"embeddings": "ab" * 32},
        versions={"torch": "2.13.0"},
        notes=(text,),
    )
    return replace(data, **changes)


def test_the_page_says_what_was_measured():
    text = Page(render(report())).text
    for words in (
        "demo generation 3",
        "2025-11-21 03:14:07 UTC",
        "2,240",
        "2,000 images, 240 videos",
        "0.49% of 2,251 seen",
        "78.4%",
        "fast 44.9%, +33.5",
        "95 %: +31.0 to +36.0",
        "−2.0",
        "target 95.0%",
        "ab12cd34ef56",
        "TruncatedImage",
        "rank 9 → 1",
        "12 min 34 s",
        "asked 7×",
    ):
        assert words in text, words


def test_the_page_is_well_formed_and_fetches_and_runs_nothing():
    page = Page(render(report()))
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, value)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_both_palettes_define_the_colours_the_drawings_use():
    page = render(report())
    light, dark = page.split("prefers-color-scheme: dark", 1)
    for name in ("--ink", "--muted", "--line", "--fast", "--slow"):
        assert f"{name}:" in light
        assert f"{name}:" in dark[:600]


def test_hostile_words_are_only_words():
    calm, hostile = Page(render(report())), Page(render(report(HOSTILE)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in calm.tags]
    assert [set(attributes) for _, attributes in hostile.tags] == [set(attributes) for _, attributes in calm.tags]
    assert hostile.open == []
    assert "<script>alert(1)</script>" in hostile.text
    assert "{{ 7*7 }}" in hostile.text
    render(report(HOSTILE)).encode("utf-8")  # no lone surrogate is left
    assert "\x00" not in render(report(HOSTILE))


@settings(max_examples=12, deadline=None)
@given(st.text(alphabet=st.sampled_from("<>&\"'`=/!-ab {}%\n\u202e\x1b"), max_size=40))
def test_no_caption_changes_the_structure_of_the_page(text):
    data = report(samples=(), stages=(), headlines=(), notes=("x",))
    index = replace(data.index, curves=())
    calm = Page(render(replace(data, index=index)))
    found = Page(render(replace(report(f"a{text}", samples=(), stages=(), headlines=(), notes=("x",)), index=index)))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in calm.tags]


def test_over_long_words_do_not_make_the_page_long():
    assert len(render(report("x" * 1_000_000, config={}))) < 200_000


def test_pictures_are_inside_and_relevant_ones_are_marked():
    page = Page(render(report()))
    assert [tag for tag, _ in page.tags].count("img") == 1
    marked = [attributes for tag, attributes in page.tags if tag == "li" and "relevant" in attributes.get("class", "")]
    assert len(marked) == 2
    assert "no picture" in page.text
    assert "⋯" in page.text  # ranks 3 to 8 are left out


@pytest.mark.parametrize("k", [0, 3])
def test_a_generation_without_reranking_or_answers_has_a_page_too(k):
    empty = report(scorer=None, headlines=(), stages=(), losses=(), measures=(), rejects=(), seconds={}, samples=())
    one_side = report(scorer=None, samples=(replace(report().samples[0], final=(), verdict="unchanged"),))
    page = Page(render(empty if k == 0 else one_side))
    assert page.open == []
    assert "no reranking" in page.text
    assert ("nothing could be measured" in page.text) == (k == 0)


def test_equal_reports_give_equal_pages():
    assert render(report()) == render(report())
