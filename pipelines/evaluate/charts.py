"""The two charts of the report, as static SVG: no scripts, colours from the page's own light and dark palette."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluate.report_data import Curve, StageQuality

# Vega writes colour strings into the SVG as they are, so the page's CSS variables decide them, also when the
# reader switches to dark; page.css defines each of these.
INK, MUTED, LINE = "var(--ink)", "var(--muted)", "var(--line)"
FAST, SLOW = "var(--fast)", "var(--slow)"

_MIN_MS = 1e-4  # a clock that reads zero cannot stand on a logarithmic axis
_STAGE_STEP = 30  # pixels a row
_PANEL_WIDTH = 296
_CURVE_SIZE = (960, 280)


def recall_by_stage(stages: Sequence[StageQuality]) -> str:
    """Recall after each step with its 95 % interval, one panel for each K; "" without stages.

    Args:
      stages: in the order of the flow.
    """
    import altair as alt

    if not stages:
        return ""
    rows: list[dict[str, object]] = [
        {"stage": stage.name, "k": k, "value": e.value, "low": e.low, "high": e.high, "side": _side(stage.name)}
        for stage in stages
        for k, e in stage.recalls.items()
    ]
    panels = [_stage_panel([row for row in rows if row["k"] == k], k, first) for k, first in _marked(stages)]
    chart = alt.hconcat(*panels, spacing=26).resolve_scale(x="independent")
    return _svg(chart, title="Recall after each step, with 95 % intervals", prefix="stages")


def _marked(stages: Sequence[StageQuality]) -> list[tuple[int, bool]]:
    """Every K of the stages, rising, and whether it is the first (which alone carries the names)."""
    ks = sorted({k for stage in stages for k in stage.recalls})
    return [(k, number == 0) for number, k in enumerate(ks)]


def _side(stage: str) -> str:
    return "slow" if stage in ("rerank", "fused") else "fast"


def _stage_panel(rows: list[dict[str, object]], k: int, first: bool) -> Any:
    import altair as alt

    names = list(dict.fromkeys(str(row["stage"]) for row in rows))
    base = alt.Chart(_data(rows)).encode(
        y=alt.Y("stage:N", sort=names, title=None, axis=alt.Axis(labels=first, domain=False, ticks=False)),
        color=alt.Color("side:N", scale=alt.Scale(domain=["fast", "slow"], range=[FAST, SLOW]), legend=None),
    )
    scale = alt.Scale(zero=False, nice=False, padding=18)
    axis = alt.Axis(format=".0%", tickCount=4, title=None, labelOverlap=True)
    # The axis can end on the same percent twice when the values lie close together; one decimal tells them apart.
    spread = [float(str(row[side])) for row in rows for side in ("low", "high")]
    if max(spread) - min(spread) < 0.05:
        axis = alt.Axis(format=".1%", tickCount=4, title=None, labelOverlap=True)
    whisker = base.mark_rule(strokeWidth=2, opacity=0.45).encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q")
    point = base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("value:Q", scale=scale))
    label = base.mark_text(dy=-11, fontSize=10.5).encode(
        x=alt.X("value:Q", scale=scale), text=alt.Text("value:Q", format=".1%"), color=alt.value(INK)
    )
    return (whisker + point + label).properties(
        width=_PANEL_WIDTH,
        height={"step": _STAGE_STEP + 8},
        title=alt.Title(f"R@{k}", anchor="start", fontSize=12, offset=8),
    )


def index_curves(curves: Sequence[Curve], *, target: float, k: int) -> str:
    """Recall of the index against milliseconds per query; the points served are ringed, the target is a line.

    Args:
      curves: for text queries and for image queries; "" when none has two points, as an exhaustive index has not.
      target: recall the index must reach.
      k: of recall@k.
    """
    import altair as alt

    rows = [
        {
            "queries": curve.queries,
            "parameters": point.parameters,
            "recall": point.recall,
            "ms": max(point.ms, _MIN_MS),
            "chosen": point.parameters == curve.chosen,
        }
        for curve in curves
        for point in curve.points
    ]
    if max((len(curve.points) for curve in curves), default=0) < 2:
        return ""
    names = [curve.queries for curve in curves if curve.points]
    xs = [float(str(row["ms"])) for row in rows]
    floor = min([target, *(float(str(row["recall"])) for row in rows)])
    y_scale = alt.Scale(domain=[max(0.0, floor - (1 - floor) * 0.12 - 0.005), 1.004], nice=False, zero=False)
    x = alt.X(
        "ms:Q",
        title="milliseconds per query (log scale)",
        scale=alt.Scale(type="log", domain=[min(xs) / 1.4, max(xs) * 1.4], nice=False),
        axis=alt.Axis(tickCount=6, format="~g", grid=False, ticks=True, labelOverlap=True),
    )
    y = alt.Y(
        "recall:Q",
        title=f"recall@{k} against exact search",
        scale=y_scale,
        axis=alt.Axis(format=".1%" if floor > 0.9 else ".0%", tickCount=6),
    )
    base = alt.Chart(_data(rows)).encode(
        x=x,
        y=y,
        color=alt.Color(
            "queries:N",
            title=None,
            sort=names,
            scale=alt.Scale(domain=names, range=[SLOW, FAST][: len(names)]),
            legend=alt.Legend(orient="bottom-right", symbolType="circle", symbolSize=70) if len(names) > 1 else None,
        ),
    )
    line = base.mark_line(strokeWidth=2, opacity=0.8).encode(order=alt.Order("ms:Q"))
    dots = base.mark_point(filled=True, size=34, opacity=1)
    served = base.transform_filter("datum.chosen")
    ring = served.mark_point(size=190, strokeWidth=2, filled=False)
    # One label is enough: both curves are served at the same parameters.
    label = (
        served.transform_filter(alt.datum.queries == names[0])
        .mark_text(align="left", dx=13, dy=14, fontWeight=600, fontSize=11.5)
        .encode(text="parameters:N", color=alt.value(INK))
    )
    goal = alt.Chart(_data([{"target": target, "text": f"target {target:.1%}"}]))
    rule = goal.mark_rule(strokeDash=[5, 4], color=MUTED, strokeWidth=1.2).encode(y=alt.Y("target:Q", scale=y_scale))
    caption = goal.mark_text(align="left", dx=4, dy=-7, fontSize=11, color=MUTED).encode(
        x=alt.value(0), y=alt.Y("target:Q", scale=y_scale), text="text:N"
    )
    chart = (rule + line + dots + ring + label + caption).properties(width=_CURVE_SIZE[0], height=_CURVE_SIZE[1])
    return _svg(chart, title=f"Recall@{k} of the index against milliseconds per query", prefix="curve")


def _data(rows: Sequence[Mapping[str, object]]) -> Any:
    """Rows of a chart, inside its specification."""
    import altair as alt

    make: Any = alt.Data  # Altair leaves it without types
    return make(values=rows)


def _svg(chart: Any, *, title: str, prefix: str) -> str:
    """Renders without a browser or the network, and makes the drawing fit into a page.

    Args:
      chart: an Altair chart.
      title: read out to those who cannot see it.
      prefix: makes ids unique in a page with several drawings.
    """
    import altair as alt
    import vl_convert

    styled = chart.configure(background="transparent", font="system-ui, sans-serif", padding=4).configure_view(
        stroke=None
    )
    styled = styled.configure_axis(
        labelColor=MUTED,
        titleColor=MUTED,
        titleFontWeight="normal",
        titleFontSize=11.5,
        titlePadding=10,
        labelFontSize=11.5,
        labelPadding=6,
        gridColor=LINE,
        domainColor=LINE,
        tickColor=LINE,
    )
    styled = styled.configure_legend(labelColor=INK, labelFontSize=12, padding=10, offset=6)
    styled = styled.configure_title(color=INK, fontWeight=600)
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    svg = str(vl_convert.vegalite_to_svg(styled.to_dict(), vl_version=version))
    counter = itertools.count()
    names = {name: f"{prefix}-{next(counter)}" for name in dict.fromkeys(re.findall(r' id="([^"]+)"', svg))}
    for old, new in names.items():
        svg = svg.replace(f' id="{old}"', f' id="{new}"').replace(f"url(#{old})", f"url(#{new})")
    # One label for the whole drawing; Vega's own, for every mark, would be read out one by one.
    svg = re.sub(r' (?:aria-[a-z]+|role)="[^"]*"', "", svg)
    # A fixed pixel size would overflow a narrow window; the view box keeps the proportions.
    svg = re.sub(r'^<svg ([^>]*?)class="marks"', rf'<svg \1class="chart" role="img" aria-label="{title}"', svg)
    return re.sub(r' width="(\d+(?:\.\d+)?)" height="\d+(?:\.\d+)?"', r' style="width:\1px"', svg, count=1)
