"""Query logs of three formats become the same distinct queries; what cannot be read is named by line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.query_logs import distinct, normalise, read_rows, split_of

ROWS = [
    {"query_id": "1", "text": "A red  circle", "count": "3", "clicked": "a|b"},
    {"query_id": "2", "text": "a Red circle ", "count": "2", "clicked": "b|c"},
    {"query_id": "3", "text": "dog", "count": "", "clicked": ""},
]


def tsv(folder):
    text = "query_id\ttext\tcount\tclicked\n" + "".join("\t".join(row.values()) + "\n" for row in ROWS)
    (folder / "log.tsv").write_text(text)
    return str(folder / "log.tsv")


def jsonl(folder):
    (folder / "log.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return str(folder / "log.jsonl")


def parquet(folder):
    rows = [dict(row) for row in ROWS]
    for row in rows:
        row["count"] = int(row["count"] or 1)
        row["clicked"] = [key for key in row["clicked"].split("|") if key]
    pq.write_table(pa.Table.from_pylist(rows), folder / "log.parquet")
    return str(folder / "log.parquet")


@pytest.mark.parametrize("write", [tsv, jsonl, parquet])
def test_every_format_gives_the_same_distinct_queries(tmp_path, write):
    first, second = distinct(read_rows(write(tmp_path)), source="log", fit_fraction=0.5)
    assert (first.query_id, first.text, first.count, first.clicked) == ("1", "A red  circle", 5, ("a", "b", "c"))
    assert (second.query_id, second.text, second.count, second.clicked) == ("3", "dog", 1, ())


def test_a_tsv_without_header_is_id_and_text(tmp_path):
    (tmp_path / "log.tsv").write_text('7#0\tA "quoted word\n')
    [query] = distinct(read_rows(str(tmp_path / "log.tsv")), source="log", fit_fraction=0)
    assert (query.query_id, query.text) == ("7#0", 'A "quoted word')


def test_an_id_used_for_two_texts_keeps_both_queries_apart():
    queries = distinct([{"query_id": "38", "text": "a"}, {"query_id": "38", "text": "b"}], source="log", fit_fraction=0)
    assert queries[0].query_id == "38"
    assert queries[1].query_id != "38"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "  "}, "row 1: expected a query text"),
        ({"text": None}, "row 1: expected a query text, got None"),
        ({"text": "a", "count": "0"}, "count: expected a whole number of 1 or more, got '0'"),
        ({"text": "a", "query_id": "x y"}, "holds white space"),
        ({"text": "a", "clicked": 3}, "clicked: expected keys"),
    ],
)
def test_a_bad_row_is_named(row, message):
    with pytest.raises(InputError, match=message):
        distinct([row], source="log", fit_fraction=0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.tsv", "a\tb\nc\n", "line 2: expected 2 columns"),
        ("log.jsonl", "{}\n[1]\n", "line 2: expected a JSON object, got list"),
        ("log.jsonl", "{\n", "line 1: not JSON"),
        ("log.csv", "a,b\n", "expected .tsv, .jsonl or .parquet"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_rows(str(tmp_path / name)))


def test_a_missing_log_says_where_it_is_configured(tmp_path):
    with pytest.raises(InputError, match=r"queries\.log"):
        list(read_rows(str(tmp_path / "none.tsv")))


@given(st.text())
def test_the_split_depends_on_the_normalised_text_alone(text):
    assert split_of(text, 0.3) == split_of(f"  {text} ", 0.3)
    assert normalise(normalise(text)) == normalise(text)


def test_the_split_has_about_the_share_asked_for():
    share = sum(split_of(f"query {i}", 0.2) == "fit" for i in range(5000)) / 5000
    assert 0.18 < share < 0.22
