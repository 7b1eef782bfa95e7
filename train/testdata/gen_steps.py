"""Writes steps.json: twelve optimizer steps of PyTorch on the small model of the
package's tests, in float64.

Everything is written down a second time here: the model's weights and data
(job_test.go), the order of the epochs (a hash of seed, epoch and sequence), the
normalisation of the loss over an accumulated step. The optimizer is
torch.optim.AdamW behind torch.nn.utils.clip_grad_norm_, the schedule that of
transformers.

Run: python gen_steps.py
"""

import json
import os

import torch
import torch.nn.functional as F
import transformers

VOCAB, HIDDEN, KINDS = 26, 6, 8
U32, U64 = 2**32 - 1, 2**64 - 1
SIZE, ACCUMULATE, EPOCHS, LR, WARMUP, DECAY, CLIP, SEED = 8, 2, 3, 0.05, 2, 0.01, 1.0, 3


def weight(name, rows, cols):
    """Fixed numbers in (-1, 1)."""
    h = 2166136261
    for c in name.encode():
        h = ((h ^ c) * 16777619) & U32
    out = []
    for i in range(rows * cols):
        x = ((h ^ (i * 2654435761 & U32)) * 2246822519) & U32
        x ^= x >> 15
        x = x * 3266489917 & U32
        out.append((x - 2**32 if x >= 2**31 else x) / 2**31)
    return torch.tensor(out, dtype=torch.float64).float().double().reshape(rows, cols)


def examples(n):
    """Words and whether their mean letter lies in the upper half."""
    x = 12345 + 7 * n
    out = []
    for _ in range(n):
        word = []
        for _ in range(2 + (x >> 7) % 6):
            x = (x * 1664525 + 1013904223) & U32
            word.append((x >> 24) % KINDS)
        out.append((word, 2 * sum(word) // (KINDS * len(word))))
    return out


def mix(z):
    z = (z + 0x9E3779B97F4A7C15) & U64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & U64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & U64
    return z ^ z >> 31


def order(n, epoch):
    base = mix((mix((mix(1) + SEED) & U64) + epoch) & U64)
    return sorted(range(n), key=lambda i: (mix((base + i * 0x9E3779B97F4A7C15) & U64), i))


def train(kind):
    data = examples(60)
    shapes = [("A", HIDDEN, 2), ("B", 2, HIDDEN)]
    if kind != "lm":
        shapes += [("head", HIDDEN, 1 + (kind == "classification")), ("bias", 1, 1 + (kind == "classification"))]
    params, at = {}, 0
    for name, r, c in shapes:
        values = [((at + i) % 7 - 3) / 10 for i in range(r * c)]
        params[name] = torch.tensor(values, dtype=torch.float64).float().double().reshape(r, c).requires_grad_()
        at += r * c
    embedding, dense, head = weight("embedding", VOCAB, HIDDEN), weight("dense", HIDDEN, HIDDEN), weight("head", HIDDEN, VOCAB)

    def sum_of_losses(word, label):
        x = embedding[word]
        h = torch.tanh(x @ dense + x @ params["A"] @ params["B"])
        if kind == "lm":
            return F.cross_entropy(h[:-1] @ head, torch.tensor(word[1:]), reduction="sum")
        y = h.mean(0) @ params["head"] + params["bias"][0]
        if kind == "regression":
            return (y[0] - label) ** 2
        return F.cross_entropy(y[None], torch.tensor([label]))

    opt = torch.optim.AdamW(list(params.values()), lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
    per_epoch = -(-(-(-len(data) // SIZE)) // ACCUMULATE)
    sched = transformers.get_linear_schedule_with_warmup(opt, WARMUP, EPOCHS * per_epoch)
    losses, norms, rates = [], [], []
    for epoch in range(EPOCHS):
        sequence = order(len(data), epoch)
        for step in range(per_epoch):
            part = [data[i] for i in sequence[step * SIZE * ACCUMULATE : (step + 1) * SIZE * ACCUMULATE]]
            labels = sum(len(w) - 1 for w, _ in part) if kind == "lm" else len(part)
            loss = sum(sum_of_losses(w, y) for w, y in part) / labels
            opt.zero_grad()
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(list(params.values()), CLIP)))
            losses.append(loss.item())
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            sched.step()
    flat = [v for p in params.values() for v in p.detach().flatten().tolist()]
    return {"kind": kind, "losses": losses, "grad_norms": norms, "lr": rates, "params": flat}


if __name__ == "__main__":
    out = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "runs": [train(k) for k in ("classification", "regression", "lm")],
    }
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "steps.json")
    with open(path, "w", encoding="ascii") as f:
        json.dump(out, f, indent=1)
        f.write("\n")
