"""The stages over a run directory, one function each: what the command line's verbs and the demo both call.

    session = start("runs/digits", describe(model="resnet14", task="digits", ...))
    train(session, recipe); opened(session); profiled(session); deciding.planned(session, request); compressed(session, Way(recipe))

Each reads what earlier stages wrote, writes its own file when it is done, and goes on from where it was after a kill.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..compression import TUNING, compress
from ..costs import cost
from ..digests import data_digest
from ..equalizing import equalize
from ..errors import MismatchError
from ..exporting import Export, NarrowedExports, OnnxModel, export_onnx, layers_in_float, layers_of, onnx_bytes
from ..lineage import is_made_from, made_from
from ..profiling import RATIOS, Sweep, identity_of, journal_identity, merge, profile
from ..progress import Progress, silent
from ..quantization import apart, quantize, same_answers, write_integers
from ..records import digest, save_record
from ..schema import SCHEMES, Graph, Plan, Profile, Result, Score
from ..schema.plans import AS_IS, FLOAT
from ..schema.schemes import file_key, option, variant
from ..sessions import Session, untrained, weighted
from ..statistics import score_interval
from ..storage import load, save
from ..surgery import retraced
from ..texts import listed, told_between
from ..training import Portion, Recipe, Task, example_outputs, fit, scored
from .standing import Way, begins, begun_notes, check_data

SHOWN = 5  # layers named in a note
ALIKE = 0.995  # of samples: a file in integers that certainly gives fewer the class of its simulation is told


def train(session: Session, recipe: Recipe, progress: Progress = silent) -> nn.Module:
    """The dense network with the run's weights: read from its file, or trained on the run's task."""
    if not session.has("weights"):
        model = weighted(session.info)
        if not session.info.weights:
            checkpoint = session.directory / "training.pt"
            progress("train", 0, recipe.epochs)
            note = lambda epoch, loss: progress("train", epoch, recipe.epochs, f"loss {loss:.3f}")
            fit(model, session.task, recipe, seed=session.info.seed, checkpoint=checkpoint, on_epoch=note)
        session.keep_dense(model)
        (session.directory / "training.pt").unlink(missing_ok=True)
    return session.dense()


def opened(session: Session) -> Graph:
    """The Graph, and the weights where they are not fresh ones, on disk: what `lamella trace` makes.

    Both or, where the network cannot be traced on the task's inputs, none: a directory belongs to a model that worked.
    """
    keeps = not session.has("weights") and not untrained(session)
    model = session.dense()
    graph = session.read("graph", Graph) if session.has("graph") else session.traced(model)
    if keeps:
        session.keep_dense(model)
    if not session.has("graph"):
        session.write("graph", graph)
    return graph


def taken_in(
    session: Session,
    journals: Sequence[Path],
    *,
    method: str = "exact",
    sweep: Sweep = Sweep(),  # noqa: B008 - frozen
) -> int:
    """Add the points of other machines' journals to the run's; how many there were.

    MismatchError for points of another network, other data or other options than a profile of this run would have now.
    """
    named, added = journal_identity(session.dense(), session.task, session.graph(), method, sweep)
    for path in journals:
        seen = identity_of(path)
        own = {**named, **{name: fact for name, fact in added.items() if name in seen}}
        differing = [name for name in {**own, **seen} if seen.get(name) != own.get(name)]
        if differing:
            facts = "; ".join(f"{name} is {seen.get(name)!r} there and {own.get(name)!r} here" for name in differing)
            other = "another network" if {"structure", "weights"} & {*differing} else "other data or options"
            raise MismatchError(
                f"{path}: holds the points of {other}: {facts}. Nothing was taken in: --merge takes the journals of this network on "
                "this data, with the --method and --sweep that they were measured with."
            )
    return merge(journals, session.path("profile_journal"))


def profiled(
    session: Session,
    *,
    pruning_ratios: tuple[float, ...] = RATIOS,
    bits: tuple[int, ...] = (),
    method: str = "exact",
    sweep: Sweep = Sweep(),  # noqa: B008 - frozen
    progress: Progress = silent,
) -> Profile:
    """The curves, and `profile.json`. Finished points are never measured again."""
    found = profile(
        session.dense(),
        session.task,
        graph=session.graph(),
        pruning_ratios=pruning_ratios,
        bits=bits,
        method=method,
        sweep=sweep,
        journal=session.path("profile_journal"),
        progress=progress,
    )
    session.write("profile", found)
    return found


def compressed(session: Session, way: Way, *, progress: Progress = silent) -> tuple[nn.Module, Result]:
    """The plan's steps, `model.safetensors` and `result.json`."""
    return compressed_as(session, session.read("plan", Plan), way, session.directory, progress=progress)


def compressed_as(
    session: Session, plan: Plan, way: Way, directory: Path, *, seed: int | None = None, progress: Progress = silent
) -> tuple[nn.Module, Result]:
    """Walk this plan into `directory`, from the run's seed unless another is given.

    Every way of walking has a folder of its own, so that going back to one resumes it.
    """
    small, result = compress(
        session.dense(),
        plan,
        tuning_task(session.task, way.tuning_samples),
        recipe=way.recipe,
        graph=session.graph(),
        seed=session.info.seed if seed is None else seed,
        directory=directory / "steps" / digest((plan.steps, way)),
        progress=begins(directory, way.command(), progress),
        removal=way.removal,
    )
    result = replace(result, data=data_digest(session.task.validation))
    save(directory, small, result)
    return small, result


def ensure_compressed(session: Session) -> None:
    """See to it that there is a compressed network: in a run without plan and result the dense one, by a plan without steps.

    RunError for a plan that was not walked.
    """
    if not session.has("plan") and not session.has("result"):
        graph = session.graph()
        dense = cost(graph)
        unchanged = Plan(structure=graph.structure, planner=AS_IS, steps=(), predicted=dense, dense=dense)
        compressed_as(session, unchanged, Way(TUNING), session.directory)
    session.read("result", Result)


def tuning_task(task: Task, samples: int | None) -> Task:
    """The task with an epoch of so many samples, drawn anew each epoch; the task itself where that is None."""
    return task if samples is None else replace(task, train=Portion(task.train, samples))


def equalized(session: Session) -> None:
    """`model.safetensors` anew, of a network that computes the same without channels that reach far beyond the others."""
    ensure_compressed(session)
    small, result = load(session.directory, session.fresh)
    check_data(session, result)
    save(session.directory, equalize(small, retraced(session.graph(), result.kept), session.task), result)


def quantized(session: Session, scheme: str = "static") -> tuple[nn.Module, Result]:
    """The plan's bits: `model.onnx`, its twin in integers by a row of `schema.SCHEMES`, and `result.json` with bits, ranges, the file's
    score and how far it agrees with the eager simulation, which is returned. Without a plan, the dense network in 8 bits.
    """
    ensure_compressed(session)
    small, result = load(session.directory, session.fresh)
    if overtaken(session, result):
        raise MismatchError(
            f"{session.path('plan')}: was made after the compressed model. Run `lamella compress {session.directory}` first."
        )
    check_data(session, result)
    if result.bits:
        result = replace(result, history=result.history[:-1], bits={}, ranges={}, notes=())
    coarse, result = quantize(small, result, session.task, scheme=scheme)
    _, source = exported(session)
    result = _of_file(result, layers_of(source))
    target = session.path(file_key(scheme))
    make = lambda: write_integers(source, target, result.bits, session.task, scheme=scheme)
    made_from(source, target, make, also=digest((scheme, result.bits, result.ranges)))
    if session.metric == "accuracy":
        result = _compared(result, same_answers(_opened(session, target, coarse), coarse, session.task))
    result = replace(result, file_score=scored(_opened(session, target, coarse), session.task.validation, session.task))
    save_record(session.path("result"), result)
    return coarse, result


def _of_file(result: Result, layers: Collection[str]) -> Result:
    """Without the bits of what is no layer of the float file, those aside that the plan named, and a note that tells of them."""
    without = [name for name in result.bits if name not in layers and name not in result.plan.bits]
    if not without:
        return result
    told = (
        f"{listed([repr(name) for name in without], SHOWN)}: called in PyTorch, and no output of the exported network follows from it (an "
        "auxiliary head does so), so no bits of it are in the file."
    )
    bits = {name: width for name, width in result.bits.items() if name not in without}
    return replace(result, bits=bits, notes=(*result.notes, told))


def overtaken(session: Session, result: Result) -> bool:
    """Whether the run's plan was made after the compressed model, which follows another."""
    if not session.has("plan"):
        return False
    asked = session.read("plan", Plan)
    return asked != result.plan and digest(asked) != result.asked


def _compared(result: Result, same_N: torch.Tensor) -> Result:
    """With the agreement of file and simulation, and a note where it certainly falls short."""
    found = score_interval(same_N.numpy())
    if found.high >= ALIKE:
        return replace(result, agreement=found)
    told = (
        f"the file in integers gives {int(same_N.sum()):,} of {found.n:,} validation samples the class that its simulation gives them, "
        f"{told_between(found.value, found.low, found.high)}, and {100 * ALIKE:g} % were expected: what was measured on the simulation, "
        "the score of its bits among it, does not hold for this file. Go by the file's own score, which is measured on the file. Where "
        "that is too low, calibrate on more samples, give layers more bits, or deploy the float file."
    )
    return replace(result, agreement=found, notes=(*result.notes, told))


def _opened(session: Session, path: Path, coarse: nn.Module) -> OnnxModel:
    """A file of the run, which answers in the form of the eager network."""
    return OnnxModel(path, like=example_outputs(coarse, session.task))


def exported(session: Session) -> tuple[Path, Path]:
    """`dense.onnx` and `model.onnx`, both fp32."""
    dense = export_once(session, session.path("weights"), session.path("dense_onnx"), session.dense)
    make = lambda: load(session.directory, session.fresh)[0]
    return dense, export_once(session, session.path("model"), session.path("onnx"), make, NarrowedExports(dense))


def export_once(
    session: Session, weights: Path, target: Path, make: Callable[[], nn.Module], export: Export = export_onnx
) -> Path:
    """The ONNX file of the network whose weights lie in `weights`; written unless it was made from these very ones."""
    return made_from(weights, target, lambda: export(make(), session.task.example_inputs, target))


def file_facts(session: Session, coarse: nn.Module, result: Result) -> dict[str, Any]:
    """What the exported files of a run weigh and score on validation: {"files": [{"path", "bytes", "validation_accuracy"}]}.

    Of the file in integers, "written", and its eager simulation, "agreement": the share of validation samples to which they give the same
    class, its 95 % interval and the number of samples; where the task has a score of its own ("classes" is false), "apart": how far
    their scores of a sample differ in the mean.
    """
    task, facts, alike, target = session.task, [], result.agreement, session.path(file_key(result.scheme))
    for path in exported_files(session).values():
        known = result.file_score if path == target else None
        score = known or scored(_opened(session, path, coarse), task.validation, task)
        facts.append({"path": str(path), "bytes": onnx_bytes(path), "validation_accuracy": score.value})
    return {
        "files": facts,
        "written": str(target),
        "simulated_validation_accuracy": result.history[-1].validation.value,
        **(flat_agreement(alike) if alike else {"apart": apart(_opened(session, target, coarse), coarse, task)}),
        "classes": alike is not None,
        "notes": _bits_notes(result) + _float_notes(target, result) + begun_notes(session, result),
    }


def flat_agreement(alike: Score) -> dict[str, Any]:
    """The share of samples to which two networks give the same class, as tables and `--json` hold it."""
    ends = {"agreement_low": alike.low, "agreement_high": alike.high}
    return {"agreement": alike.value, **ends, "samples": alike.n}


def exported_files(session: Session) -> dict[str, Path]:
    """The run's ONNX files by what they hold: dense, model, and every scheme's that was made from that model."""
    found = dict(zip(("dense", "model"), exported(session), strict=True))
    for scheme in SCHEMES:
        path = session.path(file_key(scheme))
        if is_made_from(found["model"], path):
            found[variant(scheme)] = path
    return found


def standing_notes(session: Session) -> list[str]:
    """What `exported_files` leaves out of what lies there, and that the plan is newer than the model, where that is so."""
    run, model, notes = session.directory, session.path("onnx"), []
    for scheme in SCHEMES:
        path = session.path(file_key(scheme))
        if path.exists() and not is_made_from(model, path):
            again = f"lamella quantize {run}{option(scheme)}"
            notes.append(
                f"{path} is left out: it was made from another model, or has changed since. `{again}` writes it anew."
            )
    result = session.read("result", Result)
    notes += begun_notes(session, result)
    if overtaken(session, result):
        notes.append(
            f"{session.path('plan')} was made after the compressed model, so these files follow an earlier plan. `lamella compress "
            f"{run}` walks the new one."
        )
    return notes


def _float_notes(path: Path, result: Result) -> list[str]:
    """Which layers of a file in integers ONNX Runtime computes in float all the same."""
    names = list(dict.fromkeys(layers_in_float(path))) if SCHEMES[result.scheme].calibrated else []
    told = listed([repr(name) for name in names], SHOWN)
    return [f"ONNX Runtime computes {told} in float: it has no such layer in integers."] if names else []


def _bits_notes(result: Result) -> list[str]:
    notes = [*result.notes]
    if result.scheme == "static" and any(bits >= FLOAT for bits in result.plan.bits.values()):
        notes.append(
            "layers that the plan leaves at 32 bits have 8 in the file: a file in integers holds no layer in float."
        )
    return notes
