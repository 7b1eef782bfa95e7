#!/usr/bin/env python3
"""Error against parameters of LSR and of LoRA on a real difference.

  extract_curve.py MODEL TRAIN_TSV OUT [--lsrsurgeon PROGRAM] [--steps N]

Fine-tunes all weights of MODEL (a BERT encoder, such as all-MiniLM-L6-v2) on
pairs of sentences (MRPC's TSV), extracts LoRA and LSR adapters of several
sizes from the result with the program, and writes OUT.json and OUT.svg: the
error relative to the norm of the difference, over all linear layers, against
the number of parameters. Sizes are those of all modules alike, or a budget that
goes where it lowers the error most; under a budget LSR chooses rank, terms and,
between the usual one and in x 1, the split of every module. Needs torch and transformers; recorded in OUT.json."""
import argparse, csv, json, math, os, subprocess, tempfile
import torch, transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

p = argparse.ArgumentParser()
p.add_argument("model"); p.add_argument("data"); p.add_argument("out")
p.add_argument("--lsrsurgeon", default="lsrsurgeon")
p.add_argument("--steps", type=int, default=40)
a = p.parse_args()
LORA = ["1", "2", "4", "8"]
LSR = [("2x2", 4), ("2x2", 16), ("4x4", 8), ("4x4", 16)]
BUDGETS = [42240, 84480, 168960, 337920]


def tune(out):
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
    return loss.item()


def extract(tuned, out, *flags):
    cmd = [a.lsrsurgeon, "extract", "--base", a.model, "--tuned", tuned, "-o", out, "--target", "all-linear", "--json", "--quiet", *flags]
    r = json.loads(subprocess.run(cmd, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    return {"flags": " ".join(flags), "parameters": r["trainable"], "error": r["relative_error"]}


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
        if name != "LSR":
            s.append(f'<polyline fill="none" stroke="{col}" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in pts) + '"/>')
        s += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{col}"/>' for x, y in pts]
        s.append(f'<text x="{w-130}" y="{top+16+16*list(curves).index(name)}" fill="{col}">{name}</text>')
    return "\n".join(s + ["</svg>"]) + "\n"


with tempfile.TemporaryDirectory() as tmp:
    tuned = os.path.join(tmp, "tuned")
    loss = tune(tuned)
    curves = {"LoRA": [extract(tuned, f"{tmp}/lora{r}", "--method", "lora", "--rank", r) for r in LORA],
              "LSR": [extract(tuned, f"{tmp}/lsr{r}-{s}", "--method", "lsr", "--rank", r, "--terms", str(s)) for r, s in LSR],
              "LoRA, budget": [extract(tuned, f"{tmp}/lora-b{b}", "--method", "lora", "--budget", str(b)) for b in BUDGETS],
              "LSR, budget": [extract(tuned, f"{tmp}/lsr-b{b}", "--method", "lsr", "--budget", str(b)) for b in BUDGETS]}
doc = {"torch": torch.__version__, "transformers": transformers.__version__, "steps": a.steps, "final_loss": loss, "curves": curves}
with open(a.out + ".json", "w") as f:
    json.dump(doc, f, indent=1); f.write("\n")
with open(a.out + ".svg", "w") as f:
    f.write(svg(curves))
for name, c in curves.items():
    for q in c:
        print(f'{name}\t{q["flags"]}\t{q["parameters"]}\t{q["error"]:.4f}')
