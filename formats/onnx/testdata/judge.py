"""Judges ONNX models that this package has rewritten.

Usage: judge.py LIST [TOLERANCE]. LIST has lines "original<TAB>rewritten". For each pair:
onnx.checker gives the same verdict on both, every initializer has the same
value, and ONNX Runtime gives the same outputs for the same random inputs (or
refuses both), within TOLERANCE of the largest element where one is given. Then the tensors of the original are printed as lines
"T<TAB>file<TAB>name<TAB>sha256" of the raw little-endian bytes that onnx
unpacks from them, for types that numpy has. The last line counts what was done.
Versions used: onnx 1.23.2, onnxruntime 1.32.0.
"""
import hashlib
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as TP
from onnx import numpy_helper

ort.set_default_logger_severity(4)
SIMPLE = {TP.FLOAT, TP.UINT8, TP.INT8, TP.UINT16, TP.INT16, TP.INT32, TP.INT64, TP.BOOL, TP.FLOAT16, TP.DOUBLE, TP.UINT32, TP.UINT64, TP.COMPLEX64, TP.COMPLEX128}
KINDS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


def verdict(path):
    try:
        onnx.checker.check_model(path)
        return "ok"
    except Exception as e:
        return type(e).__name__


def outputs(path, seed):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        s = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(seed)
        feeds = {}
        for i in s.get_inputs():
            shape = [d if isinstance(d, int) and d >= 0 else 2 for d in i.shape]
            feeds[i.name] = (rng.random(shape) * 3).astype(KINDS[i.type])
        return s.run(None, feeds)
    except Exception as e:
        return type(e).__name__


def near(x, y):
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind != "f" or x.shape != y.shape or x.size == 0:
        return np.array_equal(x, y)
    return np.allclose(x, y, rtol=0, atol=TOLERANCE * max(1, np.abs(x[np.isfinite(x)]).max(initial=0)), equal_nan=True)


def same(a, b):
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    if TOLERANCE:
        return len(a) == len(b) and all(near(x, y) for x, y in zip(a, b))
    return len(a) == len(b) and all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=np.asarray(x).dtype.kind in "fc") for x, y in zip(a, b))


RANDOM = {"RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Bernoulli", "Multinomial", "Dropout"}
TOLERANCE = float(sys.argv[2]) if len(sys.argv) > 2 else 0
pairs = checked = ran = 0
bad = []
for n, line in enumerate(open(sys.argv[1])):
    a, b = line.rstrip("\n").split("\t")
    pairs += 1
    va, vb = verdict(a), verdict(b)
    checked += va == "ok"
    if va != vb:
        bad.append(f"{a}: checker {va}, rewritten {vb}")
    m = onnx.load(a)
    if not RANDOM & {x.op_type for x in m.graph.node}:
        oa, ob = outputs(a, n), outputs(b, n)
        ran += not isinstance(oa, str)
        if not same(oa, ob):
            bad.append(f"{a}: outputs differ")
    for t in m.graph.initializer:
        if t.data_type in SIMPLE:
            x = np.ascontiguousarray(numpy_helper.to_array(t, base_dir=os.path.dirname(a)))
            print("T", a, t.name, hashlib.sha256(x.tobytes()).hexdigest(), sep="\t")
for x in bad:
    print("BAD", x, sep="\t")
print("DONE", pairs, checked, ran, sep="\t")
