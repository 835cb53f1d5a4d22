"""What a person reads is what was asked and found, whatever characters it has; nothing found is a sentence."""

import io

from rich.console import Console

from pipelines import tables
from pipelines.evaluate.report_data import RejectExample, RejectGroup
from pipelines.reindex.summary import Step
from pipelines.search import Answer


def shown(table: object) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    return out.getvalue()


def test_brackets_are_no_markup():
    answer = Answer(1, 7, "a[1]", "s.tar", "image", ("a [bold]cat[/bold]",), 0.5, None, 0.5)
    said = shown(tables.answers_table("[red]cat[/b]", [answer]))
    assert all(text in said for text in ("[red]cat[/b]", "a[1]", "a [bold]cat[/bold]"))
    assert "photos-[a-z].tar" in shown(tables.plan_table("demo", [Step("embed", "to do", "photos-[a-z].tar")]))


def test_of_a_sample_and_of_a_broken_shard_the_shard_is_named_once():
    cut = RejectExample("", "s.tar", "s.tar: a header is cut")
    bad = RejectExample("cat[1]", "s.tar", "no picture")
    groups = [RejectGroup("read", "TarError", 1, (cut,)), RejectGroup("decode", "NotAnImage", 2, (bad,))]
    said = shown(tables.rejects_table("demo", groups))
    assert "3 samples of demo refused" in said
    assert said.count("s.tar: a header is cut") == said.count("s.tar: ") - 1 == 1
    assert "cat[1] in s.tar: no picture" in said
    assert "1 sample of demo refused" in shown(tables.rejects_table("demo", groups[:1]))


def test_nothing_is_a_sentence():
    assert tables.rejects_table("demo", []) == "no sample of demo was refused"
    assert str(tables.generations_table("demo", [])).startswith("nothing of demo is published here yet; run: ")
