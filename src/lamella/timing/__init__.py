"""What files and layers take on a runtime, and what a plan would take before it is made.

    latency({"dense": "dense.onnx", "small": "model.onnx"}, inputs)         # files, measured side by side
    table = LatencyTable("runs/latency", precision="int8")                  # layers one by one, kept by runtime, version and CPU
    predictor = fit_predictor(table, graph, plans, measured_ms)             # table + layers + activations -> the whole network
    plan(profile, Budget(latency_ms="50%"), planner="knapsack", latency=predictor)

Files run in the runtime of their kind, on the CPU; tables hold one thread, batch 1, in ONNX Runtime or OpenVINO. Planning takes a predictor
by hand and never imports this.
"""

from ..runtimes import onnxruntime, open_session
from .calls import Array, feeds_of, prepared, require
from .files import TOLERATED, Latency, beaten, latency
from .predicting import Accuracy, LatencyPredictor, accuracy, fit_predictor
from .shapes import LayerShape, Precision, layer_shape
from .tables import LatencyTable, free_step

__all__ = [
    "TOLERATED",
    "Accuracy",
    "Array",
    "Latency",
    "LatencyPredictor",
    "LatencyTable",
    "LayerShape",
    "Precision",
    "accuracy",
    "beaten",
    "feeds_of",
    "fit_predictor",
    "free_step",
    "latency",
    "layer_shape",
    "onnxruntime",
    "open_session",
    "prepared",
    "require",
]
