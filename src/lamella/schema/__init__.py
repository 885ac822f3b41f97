"""Every value that crosses from one stage to another, and the names of the files they lie in.

    Graph      what can be narrowed: layers in call order, parameters with their axes, tensors, groups
    Profile    the Graph, a baseline, and points: what a target scores at a level of a knob
    Budget     what a plan must keep
    Plan       steps in order; each gives widths to groups and bits to layers
    Front      what each level of one budget costs in score
    Result     what a plan did: kept channels, measured history
    Level      a named setting of an elastic network, its cost and what was measured of it
    Family     the levels of an elastic network, one inside the next (`elastic.json`)
    Epoch      how those levels stood after an epoch of their training
    Accordion  a width search for a dense network: what was tried, chosen, and what its controls say
    Standardization  how rows of a table become a network's inputs

A *width* is the number of channels a group keeps. Every size in a network is a `Size`: fixed + sum(times x width(group)).
All records are frozen, keyword-only and checked at birth; `records` writes and reads them.
"""

from .accordions import Accordion, Comparison, Entry, ExportedFile, PairSweep, Role, Search, Shape, Standardization
from .curves import Knob, Metric, Point, Profile, Score, Tuned, factor_between, lowered
from .families import Epoch, Family, Level, check_levels
from .graphs import Attribute, Graph, Group, Integer, Layer, Parameter, Product, Tensor
from .plans import Amount, Budget, Cost, Front, FrontRow, Measuring, Plan, Proof, Request, Step, check_amount
from .results import Measure, Result, Row, RunInfo, Table
from .schemes import SCHEMES, LinearForm, Scheme, file_key, option, variant
from .sizes import Axis, Run, Share, Size
from .timings import LatencyFit, TimedPlan
from .trials import Trial, Trials

FILES = {  # what lies in a run directory, and the verb that makes it
    "run": ("run.json", "lamella trace"),
    "weights": ("dense.safetensors", "lamella trace"),
    "graph": ("graph.json", "lamella trace"),
    "profile": ("profile.json", "lamella profile"),
    "profile_journal": ("profile.jsonl", "lamella profile"),
    "plan": ("plan.json", "lamella plan"),
    "request": ("request.json", "lamella plan"),
    "latency_fp32": ("latency.fp32.json", "lamella plan --budget latency_ms=50%"),
    "latency_int8": ("latency.int8.json", "lamella plan --budget latency_ms=50% --bits 8"),
    "latency_fp32_openvino": (
        "latency.fp32.openvino.json",
        "lamella plan --budget latency_ms=50% --measure runtime=openvino",
    ),
    "latency_int8_openvino": (
        "latency.int8.openvino.json",
        "lamella plan --budget latency_ms=50% --bits 8 --measure runtime=openvino",
    ),
    "front": ("front.json", "lamella plan --pareto bytes"),
    "front_csv": ("pareto.csv", "lamella plan --pareto bytes"),
    "result": ("result.json", "lamella compress"),
    "model": ("model.safetensors", "lamella compress"),
    "dense_onnx": ("dense.onnx", "lamella export"),
    "onnx": ("model.onnx", "lamella export"),
    **{file_key(name): (f"model.{variant(name)}.onnx", f"lamella quantize{option(name)}") for name in SCHEMES},
    "accordion": ("accordion.json", "lamella accordion"),
    "accordion_journal": ("accordion.jsonl", "lamella accordion"),
    "inputs": ("accordion/inputs.json", "lamella accordion"),
    "search": ("search.json", "lamella accordion"),
    "trials": ("trials.json", "lamella compress --control origin"),
    "table": ("table.json", "lamella demo"),
    "elastic": ("elastic.json", "lamella elasticize"),
    "elastic_model": ("elastic.safetensors", "lamella elasticize"),
    "report": ("report.html", "lamella report"),
}

__all__ = [
    "FILES",
    "SCHEMES",
    "Accordion",
    "Amount",
    "Attribute",
    "Axis",
    "Budget",
    "Comparison",
    "Cost",
    "Entry",
    "Epoch",
    "ExportedFile",
    "Family",
    "Front",
    "FrontRow",
    "Graph",
    "Group",
    "Integer",
    "Knob",
    "LatencyFit",
    "Layer",
    "Level",
    "LinearForm",
    "Measure",
    "Measuring",
    "Metric",
    "PairSweep",
    "Parameter",
    "Plan",
    "Point",
    "Product",
    "Profile",
    "Proof",
    "Request",
    "Result",
    "Role",
    "Row",
    "Run",
    "RunInfo",
    "Scheme",
    "Score",
    "Search",
    "Shape",
    "Share",
    "Size",
    "Standardization",
    "Step",
    "Table",
    "Tensor",
    "TimedPlan",
    "Trial",
    "Trials",
    "Tuned",
    "check_amount",
    "check_levels",
    "factor_between",
    "lowered",
]
