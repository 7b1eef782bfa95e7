#!/usr/bin/env python3
"""MKL's (or oneDNN's, for bf16) and OpenBLAS's side of the matrix product comparison, as a worker: for every line on stdin
multiplies the RoBERTa-base shapes and prints {"value": GFLOP/s over all of them}. --lib torch is F.linear on
weights as nn.Linear stores them, numpy is OpenBLAS."""
import argparse, json, os, sys, time
ap = argparse.ArgumentParser()
ap.add_argument("--lib", choices=["torch", "numpy"], default="torch")
ap.add_argument("--precision", choices=["f32", "bf16"], default="f32")
ap.add_argument("--threads", type=int, default=2)
a = ap.parse_args()
for v in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"): os.environ[v] = str(a.threads)
SHAPES = [(2048, 768, 768), (2048, 768, 3072), (2048, 3072, 768)]
jobs = []
if a.lib == "torch":
    import torch
    torch.set_num_threads(a.threads); dt = torch.float32 if a.precision == "f32" else torch.bfloat16
    for m, k, n in SHAPES:
        x, w = torch.randn(m, k).to(dt), torch.randn(n, k).to(dt); jobs.append(lambda x=x, w=w: torch.nn.functional.linear(x, w))
else:
    import numpy as np
    rng = np.random.default_rng(0)
    for m, k, n in SHAPES:
        x, w, c = rng.standard_normal((m, k), dtype=np.float32), rng.standard_normal((k, n), dtype=np.float32), np.empty((m, n), np.float32)
        jobs.append(lambda x=x, w=w, c=c: np.matmul(x, w, out=c))
flop = sum(2 * m * k * n for m, k, n in SHAPES) * 5
for f in jobs: f()
print(json.dumps({"ready": True}), flush=True)
for _ in sys.stdin:
    t = time.perf_counter()
    for f in jobs:
        for _ in range(5): f()
    print(json.dumps({"value": flop / (time.perf_counter() - t) / 1e9}), flush=True)
