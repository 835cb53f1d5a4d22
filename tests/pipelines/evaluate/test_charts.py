"""The drawings: every value is in them, they need nothing from outside, and colours are left to the page."""

import re
from xml.etree import ElementTree

from pipelines.evaluate.charts import index_curves, recall_by_stage
from pipelines.evaluate.report_data import Curve, CurvePoint, Estimate, StageQuality


def stage(name, value):
    return StageQuality(name, "note", {k: Estimate(value, value - 0.02, value + 0.02) for k in (1, 5, 10)})


CURVES = (
    Curve("text queries", (CurvePoint("nprobe=1", 0.61, 0.02), CurvePoint("nprobe=8", 0.97, 0.11)), "nprobe=8"),
    Curve("image queries", (CurvePoint("nprobe=1", 0.7, 0.02), CurvePoint("nprobe=8", 0.99, 0.11)), "nprobe=8"),
)


def texts(svg):
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_every_stage_and_value_is_written_in_the_chart():
    found = texts(recall_by_stage([stage("exact", 0.452), stage("index", 0.449), stage("fused", 0.784)]))
    assert {"R@1", "R@5", "R@10", "exact", "index", "fused"} <= set(found)
    assert [found.count(value) for value in ("45.2%", "44.9%", "78.4%")] == [3, 3, 3]


def test_the_curve_marks_the_served_point_and_the_target():
    found = texts(index_curves(CURVES, target=0.95, k=10))
    assert {"target 95.0%", "nprobe=8", "text queries", "image queries"} <= set(found)
    assert "nprobe=1" not in found


def test_more_recall_is_drawn_higher():
    svg = index_curves(CURVES[:1], target=0.95, k=10)
    path = next(d for d in re.findall(r'<path [^>]*?d="(M[^"]+)"[^>]*stroke="var\(--slow\)"', svg) if "L" in d)
    (x0, y0), (x1, y1) = ([float(n) for n in point.split(",")] for point in path[1:].split("L"))
    assert x1 > x0
    assert y1 < y0


def test_colours_are_variables_of_the_page_so_that_dark_mode_reaches_them():
    for svg in (recall_by_stage([stage("exact", 0.4), stage("fused", 0.8)]), index_curves(CURVES, target=0.95, k=10)):
        colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg)) - {"none", "transparent"}
        assert colours
        assert all(colour.startswith("var(--") for colour in colours), colours


def test_nothing_is_fetched_and_nothing_runs():
    svg = index_curves(CURVES, target=0.95, k=10)
    assert "<script" not in svg
    assert not re.findall(r'(?:href|src)="', svg)
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"]


def test_ids_of_two_drawings_do_not_meet():
    one, other = recall_by_stage([stage("exact", 0.4)]), index_curves(CURVES, target=0.95, k=10)
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, other)]
    assert not ids[0] & ids[1]
    for svg, known in zip((one, other), ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= known


def test_equal_input_gives_equal_bytes():
    assert index_curves(CURVES, target=0.95, k=10) == index_curves(CURVES, target=0.95, k=10)


def test_without_anything_measured_there_is_no_chart():
    assert recall_by_stage([]) == ""
    assert index_curves([], target=0.95, k=10) == ""
    assert index_curves([Curve("text queries", (CurvePoint("", 1.0, 0.1),), "")], target=0.95, k=10) == ""


def test_a_clock_that_reads_zero_still_gives_a_curve():
    points = (CurvePoint("nprobe=1", 0.5, 0.0), CurvePoint("nprobe=2", 1.0, 0.0))
    assert "nprobe=2" in texts(index_curves([Curve("text queries", points, "nprobe=2")], target=0.9, k=10))
