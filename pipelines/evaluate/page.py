"""Draws a report: plain values in, one HTML page out, with nothing to fetch and nothing to run."""

import base64
import unicodedata
from importlib import resources
from typing import Any

import yaml
from markupsafe import Markup

from pipelines.evaluate.report_data import Estimate, ReportData

TEXT_LIMIT = 300
"""Longest untrusted text shown, in characters; captions and error messages can be megabytes."""


def render(report: ReportData) -> str:
    """The page, self-contained: styles, drawings and pictures inside, light and dark, no scripts.

    Every text is escaped, whoever wrote it; the page also forbids scripts and fetches itself by a
    content security policy.
    """
    from jinja2 import Environment, StrictUndefined

    from pipelines.evaluate import charts

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_printable
    )
    environment.filters.update(
        percent=percent, points=points, count=count, bytes=size, seconds=duration, jpeg=jpeg, cut=cut, score=score
    )
    template = environment.from_string(resources.files(__package__).joinpath("report.html").read_text("utf-8"))
    index = report.index
    return template.render(
        report=report,
        # Drawn by us from numbers and our own names; Vega escapes the rest.
        stage_chart=Markup(charts.recall_by_stage(report.stages)),
        curve_chart=Markup(charts.index_curves(index.curves, target=index.recall_target, k=index.recall_k)),
        config=yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True),
        longest_s=max(report.seconds.values(), default=0.0),
        slow_name="slow + \N{GREEK SMALL LETTER BETA} \N{MULTIPLICATION SIGN} fast",
    )


def _printable(value: Any) -> Any:
    """Text without control characters and lone surrogates, which are no part of HTML."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in value)


def percent(value: float | Estimate, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.4567)
    '45.7%'
    """
    share = value.value if isinstance(value, Estimate) else value
    return f"{100 * share:.{digits}f}%"


def points(after: float, before: float) -> str:
    """A difference of two shares in percentage points, with a real minus sign.

    >>> points(0.5, 0.45), points(0.45, 0.5), points(0.5, 0.5)
    ('+5.0', '\u22125.0', '±0.0')
    """
    text = f"{100 * (after - before):+.1f}"
    return "±0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def score(value: float) -> str:
    """A score with three decimals, zero without a sign.

    >>> score(0.12345), score(-0.00001), score(-2.5)
    ('0.123', '0.000', '\u22122.500')
    """
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", "\N{MINUS SIGN}")


def count(value: int) -> str:
    """A whole number with its thousands apart.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{value:,}"


def size(value: int) -> str:
    """Bytes in the unit people read.

    >>> size(3_400_000), size(812)
    ('3.4 MB', '812 B')
    """
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def duration(value: float) -> str:
    """Seconds in the unit people read.

    >>> duration(0.42), duration(12.34), duration(754), duration(7322)
    ('0.42 s', '12.3 s', '12 min 34 s', '2 h 02 min')
    """
    if value < 10:
        return f"{value:.2f} s"
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def jpeg(data: bytes) -> str:
    """A picture inside the page, as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """A text shortened in its middle, where the names of files differ least.

    >>> cut("abcdefghij", 7)
    'abc…hij'
    """
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"
