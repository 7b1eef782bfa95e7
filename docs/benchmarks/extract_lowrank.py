#!/usr/bin/env python3
"""The same extraction by torch.svd_lowrank, for comparison with `lsrsurgeon extract`.

  extract_lowrank.py BASE TUNED [--rank 16] [--q 24] [--niter 2] [--threads 2]

Reads two directories of safetensors shards with the same names, decomposes the
difference of every matrix under a "layers" module, and prints wall and processor
seconds and the error relative to the norm of all differences. Nothing is written."""
import argparse, glob, os, time
import torch
from safetensors import safe_open

p = argparse.ArgumentParser()
p.add_argument("base"); p.add_argument("tuned")
p.add_argument("--rank", type=int, default=16); p.add_argument("--q", type=int, default=24)
p.add_argument("--niter", type=int, default=2); p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
torch.set_num_threads(a.threads); torch.manual_seed(0)
wall, cpu, lost, total = time.perf_counter(), time.process_time(), 0.0, 0.0
for f in sorted(glob.glob(a.base + "/*.safetensors")):
    with safe_open(f, "pt") as x, safe_open(os.path.join(a.tuned, os.path.basename(f)), "pt") as y:
        for k in x.keys():
            if "layers" not in k or len(x.get_slice(k).get_shape()) != 2:
                continue
            d = y.get_tensor(k).float() - x.get_tensor(k).float()
            _, s, _ = torch.svd_lowrank(d, q=a.q, niter=a.niter)
            n = float((d.double() ** 2).sum())
            total += n; lost += n - float((s[:a.rank].double() ** 2).sum())
print(f"torch {torch.__version__}: {time.perf_counter()-wall:.1f} s, {time.process_time()-cpu:.1f} processor s, error {(lost/total)**.5:.5f}")
