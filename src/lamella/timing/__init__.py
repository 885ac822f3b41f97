"""What files and layers take on a runtime, and what a plan would take before it is made.

    latency({"dense": "dense.onnx", "small": "model.onnx"}, inputs)         # files, measured side by side
    table = LatencyTable("runs/latency", precision="int8")                  # layers one by one, kept by runtime, version and CPU
    predictor = fit(table, graph, plans, measured_ms)                       # table + layers + activations -> the whole network
    plan(profile, Budget(latency_ms="50%"), planner="knapsack", latency=predictor)

ONNX Runtime on the CPU, one thread, batch 1 for tables. Planning takes a predictor by hand and never imports this.
"""

from .files import Array, Latency, feeds_of, latency, onnxruntime, open_session
from .predicting import Accuracy, LatencyPredictor, accuracy, fit
from .shapes import LayerShape, layer_shape
from .tables import LatencyTable, free_step

__all__ = [
    "Accuracy",
    "Array",
    "Latency",
    "LatencyPredictor",
    "LatencyTable",
    "LayerShape",
    "accuracy",
    "feeds_of",
    "fit",
    "free_step",
    "latency",
    "layer_shape",
    "onnxruntime",
    "open_session",
]
