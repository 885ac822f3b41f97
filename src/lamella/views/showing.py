"""show(): the table of a value, as the command line prints it."""

from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType

from ..errors import LamellaError
from ..reach import reach
from ..reporting.drawing import metric_in
from ..schema import Accordion, Family, Front, Graph, Plan, Profile, Result
from .accordions import accordion_view
from .levels import family_view
from .runs import front_view, graph_view, plan_view, profile_view, result_view

VIEWS: dict[type, Callable[[Any], RenderableType]] = {
    Graph: lambda graph: graph_view(reach(graph)),
    Profile: profile_view,
    Result: lambda result: result_view(result, metric_in(result)),
    Front: lambda front: front_view(front, metric_in(front)),
    Family: lambda family: family_view(family, metric_in(family)),
    Accordion: accordion_view,
}


def show(value: Any, graph: Graph | None = None) -> None:
    """Print the table of a value; a plan names groups only, and needs the graph for what they are.

    Graph, Profile, Plan, Result, Front, Family, Accordion, or an elastic network. LamellaError for anything else.
    """
    family = getattr(value, "family", None)
    Console().print(_table(family if isinstance(family, Family) else value, graph))


def _table(value: Any, graph: Graph | None) -> RenderableType:
    if isinstance(value, Plan):
        if graph is None:
            raise LamellaError(
                "show: a plan names groups only. Pass the graph that it was made for: show(plan, graph)."
            )
        value.check_fits(graph)
        return plan_view(value, graph)
    for kind, view in VIEWS.items():
        if isinstance(value, kind):
            return view(value)
    known = ", ".join(sorted(kind.__name__ for kind in (*VIEWS, Plan)))
    raise LamellaError(f"show: a {type(value).__name__} was given; one of {known} or an elastic network was expected.")
