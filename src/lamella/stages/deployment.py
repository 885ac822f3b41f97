"""A run's networks as files for runtimes, what they weigh and take there, and whether that is worth deploying.

    made = delivered(session, ("onnx", "openvino"))      # written where they are absent or older than what they are made from
    alike(session, made.files)                           # how far converted integers answer as the ONNX file they were made from
    facts = weighed(session, made.files)                 # bytes and latency of each, as a ratio to dense in the same runtime
    check_faster(session, facts)                         # LamellaError for a compressed file that is slower than dense

What is compared with what: every file of the compressed network, float or in integers, with the dense network in float32, in the
same runtime, one thread, the batch of the example inputs, one interleaved run. Why: docs/decisions/0013.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import LamellaError, RunError
from ..exporting import FORMATS, Convert, Format, OnnxModel, OpenvinoModel, file_bytes, format_named
from ..lineage import made_from
from ..quantization import apart, same_answers
from ..schema import Graph, Group, Request, Result, Score
from ..sessions import Session
from ..statistics import score_interval
from ..storage import load
from ..texts import listed, told_between
from ..timing import TOLERATED, Latency, latency
from ..timing.calls import RUNTIME_OF, TITLES, require
from ..tracing import aligned
from ..training import Task, example_outputs, first_inputs
from .verbs import ALIKE, ensure_compressed, exported_files, flat_agreement, overtaken

SAMPLES = 8  # real inputs on which a file is compared with its model
SHOWN = 6  # groups named in a refusal
FLOAT_FILES = ("dense", "model")

Files = Mapping[str, Mapping[str, Path]]  # format -> variant -> file


@dataclass(frozen=True, slots=True)
class Delivered:
    """A run's files in the formats that were asked for, and what was left out of which, with the reason."""

    files: Files
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """One exported file: what it weighs, and its latency as a ratio to the dense file of the same format."""

    format: str
    variant: str
    path: str
    bytes: int
    latency: Latency

    @property
    def slower(self) -> bool:
        """Whether it is certainly slower than dense, and not by noise."""
        return self.latency.ratio_low > TOLERATED

    @property
    def flat(self) -> dict[str, Any]:
        times = {name: getattr(self.latency, name) for name in ("latency_ms", "ratio", "ratio_low", "ratio_high")}
        return {"format": self.format, "variant": self.variant, "path": self.path, "bytes": self.bytes, **times}


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """A converted file in integers beside `source`, the ONNX file that it was made from, in ONNX Runtime: the share of validation
    samples to which they give the same class; where the task has a score of its own, how far their scores of a sample differ in the mean.
    """

    path: str
    source: str
    agreement: Score | None = None
    apart: float | None = None

    @property
    def flat(self) -> dict[str, Any]:
        told = {"apart": self.apart} if self.agreement is None else flat_agreement(self.agreement)
        return {"path": self.path, "source": self.source, **told}

    @property
    def notes(self) -> list[str]:
        """What to do where the same class is certainly too rare."""
        same = self.agreement
        if same is None or same.high >= ALIKE:
            return []
        return [
            f"{self.path} gives {round(same.value * same.n):,} of {same.n:,} validation samples the class that {self.source} gives them in "
            f"ONNX Runtime, {told_between(same.value, same.low, same.high)}, and {100 * ALIKE:g} % were expected: what was measured of "
            "that file does not hold for this one. Run that file, in ONNX Runtime or in OpenVINO without its low-precision rewriting "
            "(docs/deploying.md), or deploy the float file."
        ]


def delivered(session: Session, formats: Iterable[str] = ("onnx",)) -> Delivered:
    """The dense and the compressed network in every format, and in integers where `lamella quantize` has written them (by any
    scheme in ONNX, by the static one elsewhere) and the format can hold them. Every new file is compared with its model on
    validation inputs before it appears. Raises before anything is written: RunError for a plan that was not walked, MissingExtra for a
    runtime that is not installed. (Of a run without a plan, the dense network stands for the compressed one.)

    ONNX files are written where they are asked for or converted from, and other formats need neither them nor onnx. Integers that
    cannot be converted are left out, and a note says why, and where an earlier network's lie in their place.
    """
    named = {name: format_named(name) for name in formats}
    for made in named.values():
        runtime = RUNTIME_OF[made.suffix]
        require(runtime, f"exporting to {TITLES[runtime]}")
    ensure_compressed(session)
    sources = exported_files(session) if any(made.from_onnx for made in named.values()) else {}
    files, notes = {}, []
    for name, made in named.items():
        files[name], left_out = (sources, []) if name == "onnx" else _in_format(session, made, sources)
        notes += left_out
    return Delivered(files, tuple(notes))


def usual_format(session: Session) -> str:
    """OpenVINO's where the compressed network's plan keeps milliseconds that were asked for there, else ONNX."""
    if not session.has("request") or (session.has("result") and overtaken(session, session.read("result", Result))):
        return "onnx"
    return "openvino" if session.read("request", Request).measuring.runtime == "openvino" else "onnx"


def _in_format(session: Session, made: Format, sources: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """The variants that this format can hold, and what it cannot: what the ONNX files `sources` become, or the networks themselves."""
    inputs = real_inputs(session.task) if made.dynamic_batch else session.task.example_inputs
    if made.convert:
        found, notes = _converted(made.convert, made.suffix, sources, inputs)
        return found, notes + _outdated(session, made.suffix, sources)
    networks: dict[str, tuple[str, str, Callable[[], nn.Module]]] = {
        "dense": ("weights", "dense_onnx", session.dense),
        "model": ("model", "onnx", lambda: load(session.directory, session.fresh)[0]),
    }

    def write(network: Callable[[], nn.Module], target: Path) -> Path:
        return made.write(network(), inputs, target, dynamic_batch=made.dynamic_batch)

    found = {}
    for variant, (weights, onnx, network) in networks.items():
        target = session.path(onnx).with_suffix(made.suffix)
        found[variant] = made_from(session.path(weights), target, partial(write, network, target))
    return found, []


def _converted(
    convert: Convert, suffix: str, sources: Mapping[str, Path], inputs: tuple[Tensor, ...]
) -> tuple[dict[str, Path], list[str]]:
    """What the ONNX files become, and why some of those in integers do not."""
    found, notes = {}, []
    for variant, source in sources.items():
        target = source.with_suffix(suffix)
        if variant not in (*FLOAT_FILES, "int8"):
            notes.append(
                f"{source} is not converted to {suffix}: of the schemes of `lamella quantize`, static alone is."
            )
            continue
        try:
            found[variant] = made_from(source, target, partial(convert, source, target, inputs))
        except LamellaError as error:
            if variant in FLOAT_FILES or isinstance(error, RunError):
                raise
            there = " What lies there was made from other integers: remove it." if target.exists() else ""
            notes.append(f"{target} is left out: {error}{there}")
    return found, notes


def _outdated(session: Session, suffix: str, sources: Mapping[str, Path]) -> list[str]:
    """Of converted integers that lie there where the network has none that could be converted."""
    target = session.path("int8_onnx").with_suffix(suffix)
    if "int8" in sources or not target.exists():
        return []
    return [
        f"{target} is left out: it was made from integers that are not this model's. `lamella quantize {session.directory}` makes its "
        "own; export then writes it anew."
    ]


def real_inputs(task: Task) -> tuple[Tensor, ...]:
    """A few validation inputs; the example inputs where a task's are not tensors."""
    inputs = first_inputs(task.validation, SAMPLES)
    each = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    return tuple(x[:SAMPLES] for x in each) if all(isinstance(x, Tensor) for x in each) else task.example_inputs


def weighed(session: Session, files: Files) -> list[FileFacts]:
    """Bytes and latency of every file, one interleaved run for each format."""
    found = []
    for name, paths in files.items():
        times = latency(paths, session.task.example_inputs)
        found += [
            FileFacts(format=name, variant=v, path=str(p), bytes=file_bytes(p), latency=times[v])
            for v, p in paths.items()
        ]
    return found


def alike(session: Session, files: Files) -> list[Likeness]:
    """Every converted file in integers beside its ONNX file, on all validation samples; both run with one thread."""
    paths = [each["int8"] for name, each in files.items() if FORMATS[name].convert and "int8" in each]
    return [_likeness(session, path) for path in paths]


def _likeness(session: Session, path: Path) -> Likeness:
    task, source = session.task, session.path("int8_onnx")
    like = example_outputs(session.dense(), task)
    here, there = OnnxModel(source, like=like), OpenvinoModel(path, like=like)
    if session.metric == "accuracy":
        found = score_interval(same_answers(there, here, task).numpy())
        return Likeness(path=str(path), source=str(source), agreement=found)
    return Likeness(path=str(path), source=str(source), apart=apart(there, here, task))


def check_faster(session: Session, facts: Sequence[FileFacts], variant: str | None = None) -> None:
    """LamellaError, with the reason and what to do, where a file of the compressed network is slower than dense.

    `variant`: the only one to judge; the others are what the reason is found from.
    """
    slower = [each for each in facts if each.slower and variant in (None, each.variant)]
    if slower:
        widths = session.read("result", Result).widths
        raise LamellaError(refusal(slower, facts, session.graph(), widths))


def refusal(slower: Sequence[FileFacts], facts: Sequence[FileFacts], graph: Graph, widths: Mapping[str, int]) -> str:
    """The paragraph: which files, by how much, why as far as widths tell, and what to do."""
    lines = [f"{_takes(each)}." for each in slower]
    odd = misaligned(graph, widths)
    integers_alone = all(e.variant not in FLOAT_FILES for e in slower) and any(
        e.variant == "model" and not e.slower for e in facts
    )
    if odd:
        named = [f"{name!r} keeps {width} of {graph.group_of[name].width} (step {step})" for name, width, step in odd]
        lines.append(f"  widths that are no multiples of what CPU runtimes like: {listed(named, SHOWN, ';')}.")
        step = max(step for *_, step in odd)
        lines.append(f"  try: a new run traced with --option round_to={step}{_advice(graph, odd[:SHOWN])}.")
    elif integers_alone:
        lines.append(
            "  its widths are aligned: on a network this small, quantizing activations costs more than integers save. Deploy the "
            "float file, or keep the integers for their bytes."
        )
    else:
        lines.append(
            "  its widths are aligned: so few operations are left that calling the layers takes the time. Measure at the batch "
            "you will deploy, or prune less in more layers."
        )
    lines.append("  The files are written; --allow-slower accepts them.")
    return "\n".join(lines)


def _takes(each: FileFacts) -> str:
    times = each.latency
    runtime = TITLES[RUNTIME_OF[Path(each.path).suffix]]
    return (
        f"{each.path}: slower than dense float32 in {runtime}: {times.ratio:.2f}x [{times.ratio_low:.2f}, {times.ratio_high:.2f}] "
        f"of its time, where at most {TOLERATED}x was expected"
    )


def misaligned(graph: Graph, widths: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Narrowed groups whose width is no multiple of the runtime's step: (group, width, step)."""
    steps = [(g.name, widths.get(g.name, g.width), aligned(g.width)) for g in graph.groups]
    return [(n, w, step) for n, w, step in steps if w % step and w < graph.group_of[n].width]


def _advice(graph: Graph, odd: Sequence[tuple[str, int, int]]) -> str:
    """Widths near those kept that these groups may have and runtimes like, narrower than dense; of a group without any, nothing."""
    near = {name: _narrower(replace(graph.group_of[name], round_to=step), width) for name, width, step in odd}
    better = [f"{name!r} {near[name]}" for name, width, _ in odd if near[name] not in (None, width)]
    return f"; or these widths in `lamella plan RUN --text`: {', '.join(better)}" if better else ""


def _narrower(group: Group, width: int) -> int | None:
    """The nearest width that the group may have, and the next below where that is the dense one; None where there is none."""
    legal = (group.legal(each) for each in range(width, 0, -1))
    return next((each for each in legal if each < group.width), None)
