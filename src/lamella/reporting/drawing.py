"""draw(): the picture of a value, for a notebook; and the pictures of a run directory as files.

draw(graph)             the dense ribbon                draw(plan, graph)       the ribbon, before and after
draw(profile)           fingerprints and curves         draw(result, graph)     the ribbon, and the walk through the plan
draw(net)               an elastic network's levels     draw(front), draw(accordion)

save_pictures("runs/r20", svg="figures", png="figures")     -> the paths written

Ribbons and fingerprints need nothing but this package. Charts and PNG files need the extra `report`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MissingExtra
from ..runs import write_atomically
from ..schema import Family, Front, Graph, Metric, Profile, Result
from .charts import grounded, png_of
from .pictures import Picture, pictures_of, pictures_of_run
from .stages import read_stages, scores_of_levels
from .styles import Scheme
from .words import metric_of, scores_told

SCALE = 2.0  # pixels of a PNG per unit of its picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One picture, or several below each other, as HTML: a notebook shows it, `save` writes it."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> None:
        """Write it: one picture is an SVG file, several are for an HTML file."""
        write_atomically(path, self.html)


def draw(value: Any, graph: Graph | None = None) -> Drawing:
    """The picture of a value. What names groups only (a plan, a result, a family) needs the graph for its ribbon.

    Graph, Profile, Plan, Result, Family, Front, Accordion, or an elastic network. LamellaError for anything else. Without the
    extra `report` charts are left out; MissingExtra where there is nothing else to draw.
    """
    family = getattr(value, "family", None)
    if isinstance(family, Family):
        value, graph = family, graph or getattr(value, "graph", None)
    with scores_told(metric_in(value)):
        return Drawing(html="".join(_drawn(pictures_of(value, graph))))


def metric_in(value: Any) -> Metric:
    """What its scores are: a profile says so; of the others the scores themselves must."""
    if isinstance(value, Profile):
        return value.metric
    if isinstance(value, Result):
        return metric_of(measure.validation.value for measure in value.history)
    if isinstance(value, Front):
        return metric_of((value.dense_score, *(row.predicted_score for row in value.rows)))
    if isinstance(value, Family):
        return metric_of(score.value for score in scores_of_levels(value))
    return "accuracy"


def _drawn(pictures: tuple[Picture, ...]) -> list[str]:
    try:
        return [picture.svg() for picture in pictures]
    except MissingExtra:
        own = [picture.svg() for picture in pictures if not picture.is_chart]
        if not own:
            raise
        return own


def save_pictures(
    directory: str | Path,
    *,
    svg: str | Path | None = None,
    png: str | Path | None = None,
    scheme: Scheme = "light",
) -> tuple[Path, ...]:
    """Every picture of a run as files in the folders given; without the extra `report` those that need nothing else, as SVG.

    MissingExtra where that leaves nothing, and for PNG. Files carry their colours written out and a ground behind, so that any
    program shows them alike.
    """
    written, missing, stages = list[Path](), None, read_stages(directory)
    with scores_told(stages.metric):
        pictures = pictures_of_run(stages)
    for picture in pictures:
        try:
            text = grounded(picture.svg(scheme), scheme)
        except MissingExtra as error:
            missing = error  # our own pictures are written all the same
            continue
        if svg is not None:
            written.append(Path(svg) / f"{picture.name}.svg")
            write_atomically(written[-1], text)
        if png is not None:
            written.append(Path(png) / f"{picture.name}.png")
            write_atomically(written[-1], png_of(text, SCALE))
    if missing and not written:
        raise missing
    return tuple(written)
