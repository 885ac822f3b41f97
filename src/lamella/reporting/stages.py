"""What a run directory holds so far, read from copies of its files; the questions a page asks of it.

stages = read_stages("runs/r20")        # RunError where there is nothing to tell; RecordError names a damaged file
stages.graph, stages.profile, stages.plan, stages.result, stages.table, stages.run      # None where a stage has not run
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import MismatchError, RunError
from ..records import digest, load_record
from ..schema import FILES, Graph, Plan, Point, Profile, Result, RunInfo, Table

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Stages:
    graph: Graph
    profile: Profile | None = None
    plan: Plan | None = None
    result: Result | None = None
    table: Table | None = None
    run: RunInfo | None = None
    files: Mapping[str, str]  # file name -> compact JSON

    @property
    def outcome(self) -> Plan | Result | None:
        """The furthest stage that gives widths."""
        return self.result or self.plan

    @property
    def threshold(self) -> float | None:
        """The lowest score the plan let a single cut have; None where it had no such limit."""
        return self.plan.threshold if self.plan else None


def read_stages(directory: str | Path) -> Stages:
    directory = Path(directory)
    run, graph = _read(directory, "run", RunInfo), _read(directory, "graph", Graph)
    profile, plan = _read(directory, "profile", Profile), _read(directory, "plan", Plan)
    result, table = _read(directory, "result", Result), _read(directory, "table", Table)
    graph = graph or (profile.graph if profile else None)
    if graph is None:
        name, verb = FILES["graph"]
        raise RunError(
            f"{directory}: no {name} here, so there is nothing to report. It is made by `{verb}`; run that first."
        )
    _check_together(graph, (profile, plan, result))
    plan = result.plan if result else plan  # what was measured is shown beside the plan it was measured for
    if table and result and table.plan not in ("", digest(result.plan)):
        table = None  # of an earlier plan
    files = _texts(directory, ("run", "graph", "profile", "plan", "result", "table"))
    return Stages(graph=graph, profile=profile, plan=plan, result=result, table=table, run=run, files=files)


def chosen_level(points: Iterable[Point], width: int) -> float | None:
    """The level of a curve at which a group has this width."""
    return next((p.level for p in points if p.width == width), None)


def _read(directory: Path, key: str, kind: type[R]) -> R | None:
    path = directory / FILES[key][0]
    return load_record(path, kind) if path.exists() else None


def _check_together(graph: Graph, others: Iterable[Profile | Plan | Result | None]) -> None:
    for other in others:
        if other and other.structure != graph.structure:
            kind = type(other).__name__.lower()
            name, verb = FILES[kind]
            raise MismatchError(
                f"{name} belongs to another model (structure {other.structure}, and the graph's is {graph.structure}). "
                f"Make it again with `{verb}`, or name another run directory."
            )


def _texts(directory: Path, keys: Iterable[str]) -> dict[str, str]:
    paths = [directory / FILES[key][0] for key in keys]
    return {
        p.name: json.dumps(json.loads(p.read_text(encoding="utf-8")), separators=(",", ":"))
        for p in paths
        if p.exists()
    }
