"""lamella quantize, lamella export: the run's networks as files for runtimes, weighed and timed there.

lamella quantize RUN
lamella quantize RUN --scheme static-nbits-fc --equalize
lamella export RUN --format onnx --format openvino --format pt2 --format executorch

A compressed file that is slower than dense is refused, with the reason, after everything has been written and shown.
"""

from typing import Annotated, Any

import typer

from ..schema.schemes import file_key, variant
from ..views import files_view, formats_view
from .shared import AsJson, Quiet, Run, following, show, working

FOR_OPENVINO = "written for OpenVINO, where the plan keeps its milliseconds (--format onnx for ONNX Runtime)"
AllowSlower = Annotated[
    bool, typer.Option("--allow-slower", help="Accept compressed files that are slower than the dense network.")
]


def quantize(
    run: Run,
    scheme: Annotated[
        str,
        typer.Option(
            help="static (all layers in integers, the plan's bits), static-nbits-fc (so the convolutions, linear layers in 4-bit "
            "blocks), dynamic-fc or nbits-fc (linear layers alone, in int8 or 4-bit blocks)."
        ),
    ] = "static",
    equalize: Annotated[
        bool,
        typer.Option(
            "--equalize",
            help="First bring down channels that reach far beyond the others; the network computes the same.",
        ),
    ] = False,
    allow_slower: AllowSlower = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Export the compressed network and its twin in integers (the plan's bits) as ONNX files, and measure both.

    Without a plan, it is the network as it is, and 8 bits.
    """
    from ..quantization import scheme_named
    from ..sessions import resume
    from ..stages import equalized, file_facts, quantized
    from ..stages.deciding import heavier
    from ..stages.deployment import check_faster, delivered, weighed

    scheme_named(scheme)
    with working(run, quiet):
        session = resume(run)
        if equalize:
            equalized(session)
        coarse, result = quantized(session, scheme)
        facts: dict[str, Any] = file_facts(session, coarse, result)
        facts["notes"] += heavier(session, file_key(scheme))
        files = weighed(session, delivered(session).files)
    for fact, file in zip(facts["files"], files, strict=True):
        fact.update(file.flat)
    then = following(run, "export", "report")
    show(files_view(facts), facts, quiet=quiet, as_json=as_json, then=then)
    if not allow_slower:
        check_faster(session, files, variant(scheme))


def export(
    run: Run,
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="onnx, openvino, pt2 or executorch [default: onnx, or openvino where the plan's milliseconds are OpenVINO's]. Repeatable.",
        ),
    ] = None,
    allow_slower: AllowSlower = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the dense and the compressed network for runtimes, each file compared with its model, and measure them there."""
    from ..exporting import FORMATS
    from ..sessions import resume
    from ..stages.deciding import heavier
    from ..stages.deployment import alike, check_faster, delivered, usual_format, weighed
    from ..stages.verbs import standing_notes

    with working(run, quiet):
        session = resume(run)
        usual = usual_format(session)
        made = delivered(session, format or [usual])
        files, same = weighed(session, made.files), alike(session, made.files)
        notes = [*(note for each in same for note in each.notes), *made.notes, *standing_notes(session)]
        notes += [] if format or usual == "onnx" else [FOR_OPENVINO]
        notes += heavier(session, "onnx") if any(FORMATS[name].from_onnx for name in made.files) else []
    plain = {"files": [file.flat for file in files], "alike": [each.flat for each in same], "notes": notes}
    show(formats_view(plain), plain, quiet=quiet, as_json=as_json, then=following(run, "report"))
    if not allow_slower:
        check_faster(session, files)
