"""Latencies of one network's plans on one machine: measured, predicted, and how far apart."""

from dataclasses import dataclass
from typing import Literal

from ..records import check

Runtime = Literal["onnxruntime", "openvino"]  # those that layers and plans are timed in


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedPlan:
    """A random plan's latency in milliseconds, measured on its exported file and predicted; `fitted`: the prediction has seen it."""

    widths: dict[str, int]
    measured_ms: float
    predicted_ms: float
    fitted: bool

    def __post_init__(self) -> None:
        check(self.measured_ms > 0, "measured_ms", f"{self.measured_ms} is not a positive time")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFit:
    """How a network's latency follows from its layers' in one runtime and version on one CPU (`machine`), and how well.

    ms = sum over layers of: scale x the layer alone + per_layer + per_element x elements in and out at widths of `block` or more
    (0: fitted by an older rule, and of no use now). Errors are shares, on the plans that were held out; None where none were.
    `dense_ms`: what the dense network takes in float, of which shares are: of a fit in integers, timed in the same run.
    `rule`: 1 where depthwise convolutions were timed as such and files on one sample, 0 (fits of before) where as dense ones and on
    all example inputs.
    """

    structure: str
    machine: str
    precision: Literal["fp32", "int8"]
    scale: float
    per_layer: float
    per_element: float
    plans: tuple[TimedPlan, ...]
    runtime: Runtime = "onnxruntime"
    block: int = 0
    median_error: float | None = None
    worst_error: float | None = None
    rank_correlation: float | None = None
    dense_ms: float | None = None
    rule: int = 0

    @property
    def held_out(self) -> int:
        """How many plans the fit has not seen."""
        return sum(not plan.fitted for plan in self.plans)

    @property
    def text(self) -> str:
        """One line for a person."""
        known = f"{self.precision} latency predicted for {self.machine}"
        if self.median_error is None or self.worst_error is None or self.rank_correlation is None:
            return f"{known}; no plan was held out, so its error is not known"
        return (
            f"{known}: median error {100 * self.median_error:.1f} %, worst {100 * self.worst_error:.1f} %, rank correlation "
            f"{self.rank_correlation:.2f} on {self.held_out} plans it was not fitted on"
        )
