"""The run in words: a few figures, and a few sentences, each read off the records.

figures(stages)        -> Figure("Bytes", "22.4× fewer", "1.09 MB → 48.7 kB"), ...
caveats(stages)        -> "Not here yet: a plan (`lamella plan`), ...", "Quantized: ranges come from 16 samples ...", ...
sentences(stages)      -> "Most bytes were given by layer3.2.conv2 (18 % of all that was saved), ..."
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ..schema import FILES, Accordion, Family, Graph, Profile, Result, Row, Table
from ..schema.schemes import file_key
from ..texts import listed, unfinished
from .facts import LayerFacts, linear_form, plan_of, steps_of_groups, whole_cost
from .losses import shared_losses
from .marks import elide
from .stages import Stages
from .words import counted, hundredths, percent, ratio, scored, short, size, times, whole
from .words import score as told_score


class Figure(NamedTuple):
    label: str
    value: str
    note: str


def figures(stages: Stages) -> tuple[Figure, ...]:
    """Measured figures where there are any, else predicted ones, else the dense network's."""
    if stages.table and len(stages.table.rows) > 1:
        return tuple(_from_table(stages.table))
    if stages.graph:
        return tuple(_from_records(stages, stages.graph))
    return tuple(_from_search(stages.accordion)) if stages.accordion else ()


def caveats(stages: Stages) -> tuple[str, ...]:
    """What a reader of the figures must know of them all: of stages that have not run, and what was odd of the bits."""
    found = []
    absent = [f"{what} (`{FILES[key][1]}`)" for key, what in STAGES.items() if not _made(stages, key)]
    if stages.graph and absent:
        found.append(f"Not here yet: {', '.join(absent)}.")
    odd, begun = (stages.result.notes, stages.result.begun) if stages.result else ((), "")
    found += [unfinished(begun)] if begun else []
    return (*found, *(f"Quantized: {note}" for note in odd))


LISTED = 4  # names that a sentence holds

STAGES = {
    "profile": "what each group is worth",
    "plan": "a plan",
    "result": "what the plan came to",
    "front": "what each budget would cost",
    "elastic": "levels to switch between",
}


def _made(stages: Stages, key: str) -> bool:
    made = {
        "profile": stages.profile,
        "plan": stages.plan,
        "result": stages.result or stages.walking,
        "front": stages.front,
        "elastic": stages.family or stages.training,
    }
    return bool(made[key])


def headline_rows(table: Table) -> tuple[Row, Row]:
    """The dense network, and the smallest file among the others."""
    dense = next((r for r in table.rows if r.name == "dense"), table.rows[0])
    return dense, min((r for r in table.rows if r is not dense), key=lambda r: r.bytes)


def _from_table(table: Table) -> Iterator[Figure]:
    dense, final = headline_rows(table)
    yield Figure("Bytes on disk", _fewer(dense.bytes, final.bytes), f"{size(dense.bytes)} → {size(final.bytes)}")
    accuracy = f"dense {percent(dense.test_accuracy)}"
    if final.drop is not None and final.drop_low is not None and final.drop_high is not None:
        accuracy += (
            f"; drop {hundredths(final.drop)} points ({hundredths(final.drop_low)} to {hundredths(final.drop_high)})"
        )
    yield Figure("Test accuracy", percent(final.test_accuracy), accuracy)
    if final.latency_ratio is not None:
        yield Figure("Latency", f"{final.latency_ratio:.2f} of dense", "measured in the same run")
    yield Figure("MACs", _fewer(dense.macs, final.macs), f"{short(dense.macs)} → {short(final.macs)}")


def _fewer(before: float, after: float) -> str:
    """How many times fewer. Less than 1 in 200 is no difference worth a figure.

    >>> _fewer(100, 8), _fewer(100, 100), _fewer(100, 125)
    ('12.5× fewer', 'as many', '1.25× as many')
    """
    if before <= after:
        return "as many" if after < 1.005 * before else f"{times(after, before)} as many"
    return "as many" if before < 1.005 * after else f"{times(before, after)} fewer"


def _from_search(found: Accordion) -> Iterator[Figure]:
    base, winner = found.entry("baseline"), found.entry("winner")
    counts = f"{whole(base.params)} → {whole(winner.params)}"
    yield Figure("Parameters", _fewer(base.params, winner.params), counts)
    for metric in [m for m in winner.test if m in base.test][:3]:
        yield Figure(f"Test {metric}", f"{winner.test[metric].value:.3f}", f"baseline {base.test[metric].value:.3f}")


def _from_records(stages: Stages, graph: Graph) -> Iterator[Figure]:
    outcome = stages.outcome
    dense = whole_cost(graph, graph.widths, {})
    if outcome is None:
        yield Figure("Parameters", short(dense.params), whole(dense.params))
        yield Figure("MACs", short(dense.macs), "per sample")
        yield Figure("Bytes", size(dense.bytes), "predicted file, fp32")
    else:
        now = whole_cost(graph, graph.completed(outcome.widths), outcome.bits, linear_form(outcome))
        state = "predicted file" if isinstance(outcome, Result) else "planned, predicted file"
        if stages.weighed and isinstance(outcome, Result):
            before, after = stages.weighed
            yield Figure("Bytes on disk", _fewer(before, after), f"{size(before)} → {size(after)}, ONNX files")
        else:
            yield Figure("Bytes", _fewer(dense.bytes, now.bytes), f"{size(dense.bytes)} → {size(now.bytes)}, {state}")
        yield Figure("MACs", _fewer(dense.macs, now.macs), f"{short(dense.macs)} → {short(now.macs)}")
        yield Figure("Parameters", _fewer(dense.params, now.params), f"{short(dense.params)} → {short(now.params)}")
    yield from _score(stages)


def _score(stages: Stages) -> Iterator[Figure]:
    result = stages.result
    if result and result.history:
        last, file = result.history[-1].validation, result.file_score
        note = f"before {told_score(result.history[0].validation.value)}, n = {whole(last.n)}"
        if file:
            between = f"{hundredths(file.low)} to {hundredths(file.high)}"
            note = f"of the file in integers ({between}); simulated {told_score(last.value)}; {note}"
        label = "Validation score, simulated" if result.simulated and not file else "Validation score"
        yield Figure(label, told_score((file or last).value), note)
    elif stages.profile:
        yield Figure(
            "Baseline score", told_score(stages.profile.baseline.value), f"n = {whole(stages.profile.baseline.n)}"
        )


def about_bits(result: Result) -> str:
    """Which of the scores is the simulation's, and what the file itself scores; empty before `quantize`."""
    if result.simulated is None:
        return ""
    name = FILES[file_key(result.scheme)][0]
    itself = scored(result.file_score) if result.file_score else f"told by `{FILES[file_key(result.scheme)][1]}`"
    return f"The last score is that of the simulation. That of the file itself, {name}: {itself}."


def sentences(stages: Stages, facts: Sequence[LayerFacts]) -> tuple[str, ...]:
    """What a reader should know first, in the order of the stages that have run."""
    found = [*_outcome(stages)]
    if stages.graph:
        gave = steps_of_groups(stages.graph, plan_of(stages.outcome))
        found += [*_givers(facts), *_kept(stages.graph, gave)]
        found += [*_sensitivity(stages.profile, stages.threshold)] if stages.profile else []
        found += _freedom(stages.graph, bool(gave))
    found += [*_levels(stages.family)] if stages.family else []
    return (*found, *(_search(stages.accordion) if stages.accordion else ()))


def _levels(family: Family) -> Iterator[str]:
    small, large = family.levels[0], family.levels[-1]
    scores = [x.test or x.validation for x in (small, large)]
    if len(family.levels) > 1 and all(scores):
        at = [told_score(score.value) for score in scores if score]
        took = f", {small.latency_ms:.3g} to {large.latency_ms:.3g} ms" if small.latency_ms and large.latency_ms else ""
        ends = f"from “{_named(small.name)}” ({at[0]}) to “{_named(large.name)}” ({at[1]})"
        yield f"One set of weights holds {counted(len(family.levels), 'level')}, {ends}{took}."


def _search(found: Accordion) -> Iterator[str]:
    winner = found.entry("winner")
    against = [c for c in found.comparisons if c.metric == found.metric]
    for verdict, words in (("better", "better than"), ("open", "not told apart from"), ("worse", "worse than")):
        names = [c.against for c in against if c.verdict == verdict]
        if names:
            yield f"By {_named(found.metric)} on test data, the accordion of {whole(winner.params)} parameters is {words} {_listed(names)}."


def _outcome(stages: Stages) -> Iterator[str]:
    if stages.table and len(stages.table.rows) > 1:
        dense, final = headline_rows(stages.table)
        sizes = f"takes {size(final.bytes)} on disk against {size(dense.bytes)}"
        right = f"is right on {percent(final.test_accuracy)} of {whole(stages.table.n_test)} test samples"
        against = f"dense on {percent(dense.test_accuracy)}"
        yield f"The smallest variant, “{_named(final.name)}”, {sizes} and {right}, {against}."


def _givers(facts: Sequence[LayerFacts]) -> Iterator[str]:
    saved = sum(max(0, f.saved) for f in facts)
    most = sorted((f for f in facts if f.saved > 0), key=lambda f: -f.saved)[:3]
    if most:
        named = ", ".join(f"{_named(f.name)} ({percent(f.saved / saved, 0)})" for f in most)
        yield f"Of all bytes saved, as predicted per layer, most were given by {named}."


def _kept(graph: Graph, gave: Collection[str]) -> Iterator[str]:
    untouched = [g.name for g in graph.free if g.name not in gave]
    groups = counted(len(graph.free), "group")
    if gave and untouched:
        number = len(graph.free) - len(untouched)
        yield f"{number} of {groups} that can be narrowed gave channels; untouched: {_listed(untouched)}."
    elif gave:
        yield f"Every group that can be narrowed gave channels, {len(graph.free)} in all."


def _sensitivity(profile: Profile, threshold: float | None) -> Iterator[str]:
    """The first and the last to fall, as far as the curves of all were measured."""
    means = shared_losses(profile)
    if len({*means.values()}) > 1:
        least, most = min(means, key=lambda g: means[g]), max(means, key=lambda g: means[g])
        words = f"The network minds losing channels of {_named(most)} most, of {_named(least)} least"
        if threshold is not None:
            held = [_holds(profile, group, threshold) for group in (most, least)]
            words += f". {told_score(threshold)} is held {held[0]} by the first, {held[1]} by the second"
        yield words + "."
    if len(means) > 2:
        from ..planning import depth_test  # 0.06 s, not at the top: see prints/facts

        yield f"Is it the early layers that matter? {_sentence(depth_test(profile).text)}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _holds(profile: Profile, group: str, threshold: float) -> str:
    levels = [p.level for p in profile.curve(group) if p.score.value >= threshold]
    return f"with up to {ratio(max(levels))} pruned" if levels else "at no level measured"


def _freedom(graph: Graph, told: bool) -> Iterator[str]:
    groups, frozen = counted(len(graph.groups), "group"), len(graph.groups) - len(graph.free)
    if frozen:
        yield f"Channels move in {groups}; {frozen} cannot be narrowed, for the reasons below."
    elif not told:
        yield f"Channels move in {groups}, all of which can be narrowed."


def _listed(names: Sequence[str]) -> str:
    return listed([_named(name) for name in names], LISTED)


def _named(name: str) -> str:
    """A name that leaves room for the sentence around it."""
    return elide(name, 40)
