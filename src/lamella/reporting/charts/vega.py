"""Charts by Vega-Lite: a specification is a plain dict, drawn to SVG by vl-convert without a network or a browser.

    text = chart_svg(spec, label="Score after each step")        # MissingExtra where vl-convert is not installed
    text = chart_svg(spec, label="...", scheme="light")          # with colours written out, for a file of its own

Colours in a specification are the variables of picture.css ("var(--line)"), so a chart in a page follows light, dark and print.
What a mark's `description` says becomes its tooltip. Nothing in the SVG runs, and nothing is fetched.
"""

import re
from html import escape
from typing import Any
from zlib import crc32

from ...errors import MissingExtra
from ..marks import shown
from ..styles import Scheme, flat, palette
from .grammar import INK, MUTED, RULE, Spec

FONT = "Inter, Segoe UI, system-ui, Helvetica Neue, Arial, Liberation Sans, sans-serif"
THEME = {
    "background": None,
    "padding": {
        "left": 18,
        "right": 28,
        "top": 5,
        "bottom": 5,
    },  # a browser's letters may be wider than those measured here
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "domainColor": RULE,
        "tickColor": RULE,
        "gridColor": RULE,
        "gridOpacity": 0.6,
        "labelColor": MUTED,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titlePadding": 9,
        "labelLimit": 260,
    },
    "legend": {
        "symbolStrokeWidth": 0,
        "columnPadding": 24,  # as above
        "labelColor": INK,
        "titleColor": MUTED,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
    },
    "header": {"labelColor": INK, "labelFontSize": 11, "labelFontWeight": 600, "titleColor": MUTED},
    "title": {"color": INK, "fontSize": 12, "anchor": "start"},
}

_NOISE = re.compile(r' (?:aria-roledescription|role|pointer-events|aria-hidden)="[^"]*"| class="(?!mark-)[^"]*"')
_EMPTY = re.compile(
    r'<path class="(?:background|foreground)"[^>]*?/>|<path[^>]* d="M0,0h0v0h0Z"[^>]*?/>|<path d="" display="none"/>'
)
_PLACES, _DIGITS = re.compile(r' (?:d|transform)="[^"]*"'), re.compile(r"(\.\d\d)\d+")
_TOLD = re.compile(r'<(path|text|rect|line|g)((?:(?! aria-label=)[^>])*?) aria-label="([^"]*)"([^>]*?)(/?)>')


def chart_svg(spec: Spec, *, label: str, scheme: Scheme | None = None) -> str:
    """The SVG of a specification. With a scheme it stands alone; without one the page around it must hold `picture_css()`."""
    text = _drawn(spec)
    text = _TOLD.sub(_told, _EMPTY.sub("", text))
    text = _NOISE.sub("", text)
    text = re.sub(r'\b(id="|url\(#|href="#)(?=[A-Za-z])', rf"\g<1>v{crc32(text.encode()):08x}", text)
    text = _PLACES.sub(lambda found: _DIGITS.sub(r"\1", found[0]), text)
    head = re.compile(r"<svg([^>]*)>").search(text)
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head[0]) if head else None
    if head is None or view is None:
        raise ValueError("vl-convert gave no SVG")
    own = float(view[1])
    width = f' style="max-width:{own * 1.25:.0f}px;--least:{own * 0.85:.0f}px"' if scheme is None else ""
    told = f'{width} role="img" aria-label="{escape(shown(label))}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" class="lm-chart" {view[0]}{told}>'
    whole = start + text[head.end() :]
    return flat(whole, scheme) if scheme else whole


def _drawn(spec: Spec) -> str:
    themed = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "config": THEME, **_safe(spec)}
    return str(_converter("a chart").vegalite_to_svg(themed))


def _safe(value: Any) -> Any:
    """Without what no page may show: names in the data come from anywhere."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: _safe(inner) for key, inner in value.items()}
    return [_safe(inner) for inner in value] if isinstance(value, list) else value


def _told(found: re.Match[str]) -> str:
    """What Vega says of a mark to screen readers becomes a title, which browsers show; its own axis prose is dropped."""
    tag, before, words, after, closed = found.groups()
    if "mark-" in before + after or 'role="graphics-symbol"' not in before + after or words.startswith("Title text"):
        return f"<{tag}{before}{after}{closed}>"
    if tag == "g" or not closed:
        return f"<{tag}{before}{after}{closed}>"
    return f"<{tag}{before}{after}><title>{words}</title></{tag}>"


def grounded(text: str, scheme: Scheme) -> str:
    """An SVG with a ground behind it, for a file of its own."""
    ground = f'<rect width="100%" height="100%" fill="{palette(scheme)["paper"]}"/>'
    return re.sub(r"(<svg[^>]*>)", rf"\1{ground}", text, count=1)


def png_of(text: str, scale: float) -> bytes:
    """An SVG as PNG, drawn without a browser. MissingExtra where vl-convert is not installed."""
    return bytes(_converter("a PNG").svg_to_png(text, scale=scale))


def _converter(purpose: str) -> Any:
    try:
        import vl_convert
    except ModuleNotFoundError:
        raise MissingExtra("vl-convert-python", "report", purpose) from None
    return vl_convert
