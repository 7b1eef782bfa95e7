"""Compares pairs of language models in ONNX Runtime.

    python pairs_judge.py BASE.onnx:A.onnx:B.onnx ...

A and B are models made of BASE. Prints, for each, the largest difference of the
outputs of B from those of A, that of the base from those of A, and the largest
output of A, after onnx.checker has accepted B.
Versions used: onnx 1.23.2, onnxruntime 1.32.0.
"""
import sys

import numpy as np
import onnx
import onnxruntime as ort

ort.set_default_logger_severity(4)
rng = np.random.default_rng(0)
ids = rng.integers(3, 20, (2, 6))
mask = np.ones_like(ids)
mask[1, 4:] = 0
FEED = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def outputs(path):
    s = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    kinds = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
    return s.run(None, {i.name: FEED[i.name].astype(kinds[i.type]) for i in s.get_inputs()})


def apart(x, y):
    return max(float(np.abs(p - q).max()) for p, q in zip(x, y))


for pair in sys.argv[1:]:
    base, a, b = pair.split(":")
    onnx.checker.check_model(b)
    try:
        z = outputs(base)
    except Exception:
        print("-")
        continue
    x, y = outputs(a), outputs(b)
    print(apart(x, y), apart(x, z), max(float(np.abs(p).max()) for p in x))
