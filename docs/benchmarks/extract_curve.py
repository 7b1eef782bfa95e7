#!/usr/bin/env python3
"""Error against parameters of LSR and of LoRA on a real difference.

  extract_curve.py MODEL OUT (--data TRAIN_TSV [--steps N] [--keep DIR] | --tuned MODEL) [--lsrsurgeon PROGRAM]

Extracts LoRA and LSR adapters of several sizes from the difference of a
fine-tuned model and MODEL (a BERT encoder, such as all-MiniLM-L6-v2) with the
program, and writes OUT.json and OUT.svg: the error relative to the norm of the
difference, over all linear layers, against the number of parameters. The
fine-tuned model is given, or made by training all weights of MODEL on pairs of
sentences (MRPC's TSV), for which torch and transformers are needed, and kept
under DIR.

Sizes are those of all modules alike, or a budget that goes where it lowers the
error most; under a budget LSR chooses rank, terms and splits of every module.
Points that OUT.json has of the same two models are not computed again. Ends with 1
if under some budget LSR's error is larger than LoRA's."""
import argparse, csv, hashlib, json, math, os, resource, subprocess, tempfile

p = argparse.ArgumentParser()
p.add_argument("model"); p.add_argument("out")
p.add_argument("--data"); p.add_argument("--tuned"); p.add_argument("--keep")
p.add_argument("--lsrsurgeon", default="lsrsurgeon")
p.add_argument("--steps", type=int, default=40)
a = p.parse_args()
if bool(a.data) == bool(a.tuned):
    p.error("give --data to fine-tune, or --tuned")
BUDGETS = [10560, 42240, 84480, 168960, 337920]
CURVES = {
    "LoRA": [["--method", "lora", "--rank", str(r)] for r in (1, 2, 4, 8)],
    "LSR, usual split": [["--method", "lsr", "--rank", r, "--terms", str(s)] for r, s in (("2x2", 4), ("2x2", 16), ("4x4", 8), ("4x4", 16))],
    "LoRA, budget": [["--method", "lora", "--budget", str(b)] for b in BUDGETS],
    "LSR, budget": [["--method", "lsr", "--budget", str(b)] for b in BUDGETS],
}


def tune(out):
    import torch, transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    torch.manual_seed(0)
    tok = AutoTokenizer.from_pretrained(a.model)
    m = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=2)
    with open(a.data, encoding="utf-8-sig") as f:
        rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    opt = torch.optim.AdamW(m.parameters(), lr=5e-5)
    m.train()
    order = torch.randperm(len(rows)).tolist() * (1 + a.steps * 16 // len(rows))
    for i in range(a.steps):
        batch = [rows[j] for j in order[16 * i:16 * i + 16]]
        x = tok([r[3] for r in batch], [r[4] for r in batch], padding=True, truncation=True, max_length=96, return_tensors="pt")
        loss = m(**x, labels=torch.tensor([int(r[0]) for r in batch])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step(); opt.zero_grad()
    m.save_pretrained(out)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {a.steps} steps, last loss {loss.item():.4f}")


def sha256(model):
    h = hashlib.sha256()
    with open(os.path.join(model, "model.safetensors"), "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def extract(tuned, out, flags):
    cmd = [a.lsrsurgeon, "extract", "--base", a.model, "--tuned", tuned, "-o", out, "--target", "all-linear", "--json", "--quiet", *flags]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    r = json.loads(subprocess.run(cmd, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    other = sum(m["split_in"] != f'{m["in"]}x1' or m["split_out"] != f'{m["out"]}x1' for m in r["modules"]) if "lsr" in flags else 0
    return {"flags": " ".join(flags), "parameters": r["trainable"], "error": r["relative_error"], "cpu_seconds": round(spent, 1),
            "modules": len(r["modules"]), "modules_not_plain": other}


def svg(curves):
    w, h, left, top = 560, 360, 60, 30
    xs = [math.log10(q["parameters"]) for c in curves.values() for q in c]
    ys = [q["error"] for c in curves.values() for q in c]
    x0, x1, y0, y1 = min(xs) - .1, max(xs) + .1, max(0, min(ys) - .05), 1.0
    px = lambda v: left + (v - x0) / (x1 - x0) * (w - left - 20)
    py = lambda v: top + (y1 - v) / (y1 - y0) * (h - top - 50)
    s = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
         f'<text x="{left}" y="18">Error of extraction against parameters, fully fine-tuned MiniLM</text>']
    for i in range(5):
        v = y0 + (y1 - y0) * i / 4
        s.append(f'<line x1="{left}" x2="{w-20}" y1="{py(v):.1f}" y2="{py(v):.1f}" stroke="#ddd"/><text x="{left-6}" y="{py(v)+4:.1f}" text-anchor="end">{v:.2f}</text>')
    for e in range(math.ceil(x0), math.floor(x1) + 1):
        s.append(f'<line y1="{top}" y2="{h-50}" x1="{px(e):.1f}" x2="{px(e):.1f}" stroke="#ddd"/><text x="{px(e):.1f}" y="{h-34}" text-anchor="middle">10^{e}</text>')
    s.append(f'<text x="{w/2}" y="{h-12}" text-anchor="middle">parameters</text>')
    for (name, c), col in zip(curves.items(), ("#c33", "#236", "#e90", "#295")):
        pts = sorted((px(math.log10(q["parameters"])), py(q["error"])) for q in c)
        if "usual" not in name:
            s.append(f'<polyline fill="none" stroke="{col}" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in pts) + '"/>')
        s += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{col}"/>' for x, y in pts]
        s.append(f'<text x="{w-140}" y="{top+16+16*list(curves).index(name)}" fill="{col}">{name}</text>')
    return "\n".join(s + ["</svg>"]) + "\n"


with tempfile.TemporaryDirectory() as tmp:
    tuned = a.tuned or a.keep or os.path.join(tmp, "tuned")
    if not a.tuned:
        tune(tuned)
    doc = {"base_sha256": sha256(a.model), "tuned_sha256": sha256(tuned)}
    points = {}
    if os.path.exists(a.out + ".json"):
        with open(a.out + ".json") as f:
            kept = json.load(f)
        if all(kept.get(k) == v for k, v in doc.items()):
            points = {q["flags"]: q for c in kept["curves"].values() for q in c}
    for name, sizes in CURVES.items():
        for flags in sizes:
            key = " ".join(flags)
            if key not in points:
                points[key] = extract(tuned, os.path.join(tmp, f"adapter{len(points)}"), flags)
            q = points[key]
            print(f'{name}\t{key}\t{q["parameters"]}\t{q["error"]:.4f}\t{q["cpu_seconds"]} s', flush=True)
            doc["curves"] = {n: [points[k] for k in map(" ".join, s) if k in points] for n, s in CURVES.items()}
            with open(a.out + ".json", "w") as f:
                json.dump(doc, f, indent=1); f.write("\n")
with open(a.out + ".svg", "w") as f:
    f.write(svg(doc["curves"]))
above = [q["flags"] for q, l in zip(doc["curves"]["LSR, budget"], doc["curves"]["LoRA, budget"]) if q["error"] > l["error"] * (1 + 1e-8)]
raise SystemExit("LSR above LoRA: " + ", ".join(above) if above else 0)
