"""lamella profile: what every group and layer costs the network at every level.

lamella profile RUN --pruning-ratios .25,.5,.75 --bits 8,4
lamella profile RUN --method race --sweep factor=0.99 --points 'layer3.*'
lamella profile RUN --merge elsewhere/profile.jsonl
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LamellaError
from ..pairs import options_of
from ..records import to_plain
from ..schema import Profile
from ..views import profile_view
from .shared import AsJson, Quiet, Run, following, options, show, working

if TYPE_CHECKING:
    from ..profiling import Sweep


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured, and how."""

    pruning_ratios: Annotated[str, typer.Option(help="Fractions removed, comma separated.")] = (
        ".1,.2,.3,.4,.5,.6,.7,.8,.9"
    )
    bits: Annotated[str, typer.Option(help="Bit widths, comma separated, such as 8,4 [default: none].")] = ""
    method: Annotated[str, typer.Option(help="exact, race or estimate.")] = "exact"
    points: Annotated[list[str] | None, typer.Option(help="Only targets that match this glob. Repeatable.")] = None
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the sweep: recalibrate=1, whole=1, layers=1, inputs=1, factor=0.99, executor=ray ... Repeatable.",
        ),
    ] = None

    def ratios(self) -> tuple[float, ...]:
        return tuple(_numbers(self.pruning_ratios, "--pruning-ratios"))

    def bit_widths(self) -> tuple[int, ...]:
        return tuple(_whole(number, "--bits") for number in _numbers(self.bits, "--bits"))

    def chosen(self) -> "Sweep":
        """The options of the sweep, as a record."""
        from ..profiling import Sweep

        return options_of(Sweep, self.sweep or [], "--sweep", points=tuple(self.points or ("*",)))


@options(measured=Measured)
def profile(
    run: Run,
    measured: Measured,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Take in the journal of another machine. Repeatable.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure what every group (and, with --bits, every layer) costs the network at every level. Resumes where it was."""
    from ..sessions import resume
    from ..stages import profiled, taken_in

    ratios, bits, sweep = measured.ratios(), measured.bit_widths(), measured.chosen()
    with working(run, quiet) as progress:
        session = resume(run)
        if merge:
            taken_in(session, merge, method=measured.method, sweep=sweep)
        found: Profile = profiled(
            session, pruning_ratios=ratios, bits=bits, method=measured.method, sweep=sweep, progress=progress
        )
    plain = {"baseline": to_plain(found.baseline), "points": to_plain(found.points), "notes": found.notes}
    alone = all(point.knob.startswith("bits") for point in found.points)  # the usual planner needs curves of widths
    then = following(run, "plan") + (" --planner knapsack --budget bytes=25%" if alone else "")
    show(profile_view(found), plain, quiet=quiet, as_json=as_json, then=then)


def _numbers(text: str, option: str) -> list[float]:
    return [_number(part, option) for part in text.split(",") if part]


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LamellaError(f"{option}: {text!r} is not a number.") from None


def _whole(number: float, option: str) -> int:
    if not number.is_integer():
        raise LamellaError(f"{option}: {number:g} is not a whole number.")
    return int(number)
