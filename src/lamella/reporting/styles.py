"""The one style sheet of every picture, and its forms: alive in a page, or flat for programs that know no variables.

picture_css()           as it is: light and dark, hover and focus, print
flat_css("light")       the same colours written out; without media queries and what only a browser can do
palette("light")        {"ink": "#1e2126", ...}
"""

import re
from functools import cache
from importlib.resources import files
from typing import Literal

Scheme = Literal["light", "dark"]

_VARIABLE = re.compile(r"--([\w-]+):\s*(#[0-9a-fA-F]{3,8})")
_DEFINITION = re.compile(r"--[\w-]+:[^;]+;")
_MEDIA = re.compile(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*\s*\}")
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")


@cache
def picture_css() -> str:
    return files(__package__).joinpath("picture.css").read_text(encoding="utf-8")


@cache
def palette(scheme: Scheme) -> dict[str, str]:
    """The colours by name. The dark ones are the light ones with what the dark block changes."""
    light, *others = (dict(_VARIABLE.findall(part)) for part in picture_css().split("prefers-color-scheme: dark"))
    return {**light, **(others[0] if scheme == "dark" else {})}


def flat(text: str, scheme: Scheme) -> str:
    """Text in which every variable is the colour it stands for."""
    colours = palette(scheme)
    return re.sub(r"var\(--([\w-]+)\)", lambda found: colours.get(found[1], "currentColor"), text)


@cache
def flat_css(scheme: Scheme) -> str:
    """Rules that any SVG program reads: no variables, no media queries, no states but the resting one."""
    rules = _RULE.findall(_MEDIA.sub("", picture_css()))
    resting = [(s.strip(), body) for s, body in rules if not re.search(r":(hover|focus|has)", s)]
    return flat("".join(f"{s} {{{_DEFINITION.sub('', body)}}}\n" for s, body in resting), scheme)
