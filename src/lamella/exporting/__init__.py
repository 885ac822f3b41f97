"""Files that run without torch: write, reload, compare, run, weigh.

    export(model, example_inputs, "model.onnx")             # or .xml (OpenVINO), .pt2 (torch.export), .pte (ExecuTorch)
    dense = export_onnx(model, example_inputs, "dense.onnx")          # float32, checked against torch
    export = NarrowedExports(dense); export(small_model, example_inputs, "model.onnx")   # the same file as export_onnx writes, sooner
    small = quantize_onnx(dense, "model.int8.onnx", calibration)      # weights and activations in integers
    layers_in_float(small)                                            # (): ONNX Runtime computes all of it in int8
    files = export_family(parts, shared, example_inputs, "elastic")     # levels of an elastic network, weights stored once
    file_bytes(small), OnnxModel(small)(images)                       # its weight on disk; a module that runs it

These know modules, tensors and files, and nothing of graphs and plans. `timing` opens files in their runtimes and measures them.
"""

from .capturing import one_sample
from .families import Part, Place, Written, export_family, family_bytes, remove_family
from .formats import FORMATS, Convert, Format, export, file_bytes, format_named
from .integers import layers_in_float, layers_of, quantize_onnx
from .likeness import Export, NarrowedExports
from .linear_layers import quantize_linear
from .onnx_file import export_onnx, onnx_bytes
from .openvino_file import convert_to_openvino
from .running import OnnxModel, OpenvinoModel, in_form, run_onnx

__all__ = [
    "FORMATS",
    "Convert",
    "Export",
    "Format",
    "NarrowedExports",
    "OnnxModel",
    "OpenvinoModel",
    "Part",
    "Place",
    "Written",
    "convert_to_openvino",
    "export",
    "export_family",
    "export_onnx",
    "family_bytes",
    "file_bytes",
    "format_named",
    "in_form",
    "layers_in_float",
    "layers_of",
    "one_sample",
    "onnx_bytes",
    "quantize_linear",
    "quantize_onnx",
    "remove_family",
    "run_onnx",
]
