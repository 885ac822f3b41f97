"""Files that run without torch: write, reload, compare, run, weigh.

    dense = export_onnx(model, example_inputs, "dense.onnx")          # float32, checked against torch
    small = quantize_onnx(dense, "model.int8.onnx", calibration)      # weights and activations in integers
    layers_in_float(small)                                            # (): ONNX Runtime computes all of it in int8
    files = export_family(parts, shared, example_inputs, "elastic")     # levels of an elastic network, weights stored once
    onnx_bytes(small), OnnxModel(small)(images)                       # its weight on disk; a module that runs it

These know modules, tensors and files, and nothing of graphs and plans. `timing` measures what lies in the files.
"""

from .families import Part, Place, Written, export_family, family_bytes
from .integers import layers_in_float, quantize_onnx
from .onnx_file import OnnxModel, export_onnx, onnx_bytes, run_onnx

__all__ = [
    "OnnxModel",
    "Part",
    "Place",
    "Written",
    "export_family",
    "export_onnx",
    "family_bytes",
    "layers_in_float",
    "onnx_bytes",
    "quantize_onnx",
    "run_onnx",
]
