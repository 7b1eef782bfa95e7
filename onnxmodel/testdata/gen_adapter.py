"""Writes ort.onnx_adapter with ONNX Runtime's own exporter.

    python gen_adapter.py

Three parameters in three element types, one of them empty; values are
numpy.arange(n) / 8. Versions used: onnxruntime 1.32.0, numpy 2.4.6.
"""
import os

import numpy as np
import onnxruntime as ort

f = ort.AdapterFormat()
f.set_adapter_version(7)
f.set_model_version(9)
value = lambda shape, t: ort.OrtValue.ortvalue_from_numpy((np.arange(np.prod(shape)).reshape(shape) / 8).astype(t))
f.set_parameters({
    "layer.0.query.lora_A.weight": value((6, 2), np.float32),
    "layer.0.query.lora_B.weight": value((2, 5), np.float16),
    "empty": value((3, 0), np.float32),
})
f.export_adapter(os.path.join(os.path.dirname(os.path.abspath(__file__)), "ort.onnx_adapter"))
