"""The closing table: baseline, winner and controls over the same seeds, and the winner against each of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..schema import Accordion, Comparison, Entry, PairSweep, Role, Score, Shape
from ..statistics import over_seeds
from ..training import Loader
from .controls import references, shape_controls
from .searching import Quest
from .shapes import PUBLISHED, Widths, named
from .working import Outcome

SPREAD_NOTE = (
    "intervals are over {seeds} seeds of initial weights and batch order (Student's t), differences paired by seed: they tell how "
    "far training varies, not how far other test samples would."
)


def closed(
    quest: Quest,
    winner: Widths,
    *,
    sweeps: Sequence[PairSweep] = (),
    tried: Sequence[Shape] = (),
    pruned: Sequence[Outcome] = (),
) -> Accordion:
    """Train the controls, and put everything side by side. `pruned`: the winner's outcomes where its weights are not fresh."""
    bench, settings = quest.workshop.bench, quest.settings
    lines = list(_lines(quest, winner, pruned))
    entries = tuple(_entry(quest, line, lines[0].outcomes) for line in lines)
    own = next(line.outcomes for line in lines if line.role == "winner")
    task = bench.task
    comparisons = tuple(
        Comparison(against=x.name, metric=quest.metric, difference=_paired(own, x.outcomes, quest.metric))
        for x in lines
        if x.role != "winner"
    )
    remarks = (*_fallen(quest, own), *unvaried(quest.metric, entries, comparisons))
    return Accordion(
        task=task.name,
        metric=quest.metric,
        method=settings.method,
        inputs=bench.inputs,
        outputs=bench.outputs,
        baseline=quest.baseline,
        widths=winner,
        sweeps=tuple(sweeps),
        tried=tuple({shape.widths: shape for shape in (quest.shape(quest.baseline), *tried)}.values()),
        entries=entries,
        comparisons=comparisons,
        seeds=settings.all_seeds,
        epochs=bench.recipe.epochs,
        n_train=_count(task.train),
        n_validation=_count(task.validation),
        n_test=_count(task.test),
        notes=(*task.notes, SPREAD_NOTE.format(seeds=settings.seeds), *remarks, *quest.workshop.notes),
    )


def _fallen(quest: Quest, winner: Sequence[Outcome]) -> Iterator[str]:
    """A note where the winner lost more than it was to: a plan only predicts, and the walk may not keep what it promised."""
    asked, baseline = quest.settings.budget.max_drop, quest.values(quest.baseline)
    lost = 100 * float(baseline.mean() - np.mean([o.validation[quest.metric] for o in winner]))
    if asked is not None and lost - asked >= 0.005:  # in the digits told
        yield f"the winner's {quest.metric} on validation is {lost:.2f} points below the baseline's: max_drop={asked:g} was not kept."


def unvaried(metric: str, entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Of entries and differences that are the same from every seed: an interval without width would look like certainty."""
    winner = next(entry for entry in entries if entry.role == "winner")
    seeds = winner.validation.n
    same = [entry.name for entry in entries if not entry.test[metric].has_width]
    if same:
        yield f"{', '.join(same)}: the same test {metric} from all {seeds} seeds, so there is no interval to give."
    itself = [entry.name for entry in entries if entry is not winner and _outcome(entry) == _outcome(winner)]
    if itself:
        yield f"{', '.join(itself)}: the winner's widths and scores from every seed: the very same networks, and no control here."
    steady = [c.against for c in comparisons if not c.difference.has_width and c.against not in itself]
    if steady:
        yield (
            f"{', '.join(steady)}: the same difference to the winner from all {seeds} seeds, so there is no interval to give and the "
            "verdict is open. Scores of few samples go in coarse steps, and few seeds meet the same one by chance: more of them tell "
            "(--seeds)."
        )


def _outcome(entry: Entry) -> tuple[Widths, tuple[float, ...], dict[str, Score]]:
    return entry.widths, entry.per_seed, entry.test


class Line(NamedTuple):
    """What a line of the closing table is made of; one outcome per seed."""

    name: str
    role: Role
    widths: Widths
    params: int
    outcomes: Sequence[Outcome]


def _lines(quest: Quest, winner: Widths, pruned: Sequence[Outcome]) -> Iterator[Line]:
    """Baseline, winner, controls, published, references."""
    bench = quest.workshop.bench
    shapes: list[tuple[str, Role, Widths]] = [("baseline", "baseline", quest.baseline)]
    shapes.append(("same widths, fresh weights", "control", winner) if pruned else ("accordion", "winner", winner))
    shapes += [(n, "control", w) for n, w in shape_controls(winner, quest.baseline, bench.inputs, bench.outputs)]
    shapes += [(f"published {named(w)}", "published", w) for w in _published(quest) if w != winner]
    seeds = quest.settings.all_seeds
    done = quest.workshop.outcomes(quest.nets([w for _, _, w in shapes], len(seeds)), "controls")
    for number, (name, role, widths) in enumerate(shapes):
        outcomes = [done[net] for net in quest.nets([widths], len(seeds))]
        yield Line(name, role, widths, bench.params(widths), outcomes)
        if pruned and number == 0:
            yield Line("pruned", "winner", winner, bench.params(winner), pruned)
    for make in references(bench):
        name, numbers, outcomes = make(bench, quest.metric, seeds)
        yield Line(name, "control", (), numbers, outcomes)


def _published(quest: Quest) -> list[Widths]:
    """What was published as found from this very baseline."""
    bench = quest.workshop.bench
    facts = (quest.baseline, bench.inputs, bench.outputs)
    same = [n for n, p in PUBLISHED.items() if n.endswith("-baseline") and (p.widths, p.inputs, p.outputs) == facts]
    return [PUBLISHED[name.replace("-baseline", "-accordion")].widths for name in same]


def _entry(quest: Quest, line: Line, reference: Sequence[Outcome]) -> Entry:
    names, values = quest.workshop.bench.judge.names, [o.validation[quest.metric] for o in line.outcomes]
    baseline = line.role == "baseline"
    return Entry(
        name=line.name,
        role=line.role,
        widths=line.widths,
        params=line.params,
        validation=over_seeds(values),
        per_seed=tuple(values),
        test={metric: over_seeds([o.test[metric] for o in line.outcomes]) for metric in names},
        below={} if baseline else {metric: _paired(reference, line.outcomes, metric) for metric in names},
    )


def _paired(a: Sequence[Outcome], b: Sequence[Outcome], metric: str) -> Score:
    """The mean over seeds of a's test metric minus b's."""
    return over_seeds([of_a.test[metric] - of_b.test[metric] for of_a, of_b in zip(a, b, strict=True)])


def _count(loader: Loader) -> int:
    samples = getattr(loader, "samples", None)
    return int(samples) if samples is not None else sum(len(inputs) for inputs, _ in loader)
