"""A plan beside its controls, over several seeds: is it the plan, its order, or just the extra training?

    trials = controlled(session, way, ("origin", "in_order", "uniform"), seeds=3)      # also trials.json

Every control tunes for as many epochs as the plan does. `origin` cuts nothing: the dense network with the same extra training.
`in_order` makes the same cuts from input to output. `uniform` cuts every group by the same share, at once, to the plan's MACs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..costs import cost
from ..errors import LamellaError, unknown_name
from ..planning import plan as make_plan
from ..planning import reorder
from ..progress import Progress, silent
from ..records import digest
from ..schema import Budget, Plan, Step, Trial, Trials
from ..sessions import Session
from ..training import evaluate
from ..walking import has_work
from .deciding import curves
from .standing import Way
from .verbs import compressed_as


def controlled(
    session: Session, way: Way, controls: Sequence[str], seeds: int = 3, progress: Progress = silent
) -> Trials:
    """The run's plan and these controls, each tuned from `seeds` seeds (the run's own and the next), and `trials.json`.

    The plan from the run's own seed is the run's model, as `compressed` leaves it.

    Finished walks are never taken again. LamellaError for a control that is not in the table.
    """
    for name in controls:
        if name not in CONTROLS:
            raise LamellaError(unknown_name("control", name, CONTROLS))
    if seeds < 1:
        raise LamellaError(f"--seeds {seeds}: at least one seed is needed.")
    plan = session.read("plan", Plan)
    made = {"plan": plan} | {name: CONTROLS[name](session, plan) for name in dict.fromkeys(controls)}
    trials = []
    for index, seed in enumerate(range(session.info.seed, session.info.seed + seeds)):
        for place, (name, variant) in enumerate(made.items(), index * len(made)):
            progress("controls", place, seeds * len(made), f"{name}, seed {seed}")
            trials.append(_trial(session, name, variant, way, seed))
    progress("controls", len(trials), len(trials))
    found = Trials(structure=plan.structure, seeds=seeds, trials=tuple(trials), plan=digest(plan))
    session.write("trials", found)
    return found


def _trial(session: Session, name: str, plan: Plan, way: Way, seed: int) -> Trial:
    own = name == "plan" and seed == session.info.seed  # what `lamella compress` walks: the run's own model
    directory: Path = session.directory if own else session.directory / "controls" / f"{name}-{seed}"
    small, result = compressed_as(session, plan, way, directory, seed=seed)
    last, task = result.history[-1], session.task
    test = evaluate(small, task.test, task.score).numpy()
    return Trial(
        name=name,
        seed=seed,
        validation=last.validation.value,
        test=float(test.mean()),
        n_test=len(test),
        params=last.params,
        macs=last.macs,
    )


def _origin(session: Session, plan: Plan) -> Plan:
    dense = cost(session.graph())
    return replace(plan, planner="origin", steps=(Step(epochs=_epochs(plan.steps)),), predicted=dense)


def _in_order(session: Session, plan: Plan) -> Plan:
    return reorder(plan, curves(session, "uniform"), "in_order")


def _uniform(session: Session, plan: Plan) -> Plan:
    even = make_plan(curves(session, "uniform"), Budget(macs=plan.predicted.macs), planner="uniform")
    rounding = tuple(step for step in plan.steps if step.bits and not step.widths)
    cutting = tuple(step for step in plan.steps if step not in rounding)
    cut = Step(widths=even.widths, epochs=_epochs(cutting))
    cutting_steps = (cut,) if has_work(cut) else ()  # an empty step would give those after it other seeds
    return replace(even, steps=(*cutting_steps, *rounding))


def _epochs(steps: Sequence[Step]) -> int:
    return sum(step.epochs for step in steps)


CONTROLS: dict[str, Callable[[Session, Plan], Plan]] = {"origin": _origin, "in_order": _in_order, "uniform": _uniform}
