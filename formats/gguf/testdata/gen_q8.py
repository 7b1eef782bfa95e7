"""Writes q8.json: rows of float32 numbers and their Q8_0 blocks as the
package gguf quantises them. Made with gguf 0.19.0, numpy 2.4.6."""
import json
import os

import gguf
import numpy as np

rng = np.random.default_rng(0)
scale = np.array([[1e-6], [1e-3], [1], [3], [10], [0], [1e4], [0.5]])
x = (rng.standard_normal((8, 64)) * scale).astype(np.float32)
# Halves of a step, which round away from zero: the scale of this block is 1.
x[3, :5] = [0.5, -0.5, 1.5, 2.5, 127]
q = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0)
out = {"gguf": "0.19.0", "x": x.view(np.uint32).ravel().tolist(), "q8_0": q.tobytes().hex()}
with open(os.path.join(os.path.dirname(__file__), "q8.json"), "w") as f:
    json.dump(out, f)
    f.write("\n")
