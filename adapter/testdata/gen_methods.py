"""Writes methods.safetensors: every method on one linear layer, written from its
paper in PyTorch, float64, with its gradients by autograd.

    python gen_methods.py

A case NAME is the tensors NAME/x (rows, in), NAME/w (out, in), NAME/bias (out),
NAME/target, NAME/y (rows, out), NAME/dx, and for every trained tensor NAME/value.T
and NAME/grad.T under the name T that it has in an adapter file. The loss is
sum((y - target)^2). Metadata "cases" has the settings.
"""

import json
import math

import torch
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
ROWS, IN, OUT = 5, 12, 18
CASES, TENSORS = {}, {}


def rand(*shape):
    # What float32 holds, so that files keep it whole.
    return (torch.randn(*shape) / 2).float().double()


def kron_sum(a, b):
    return sum(torch.kron(p, q) for p, q in zip(a, b))


def case(name, method, layer, tensors, frozen=None, block=False, **settings):
    """layer(x, w, bias, t) is the adapted layer of the frozen y = x w^T + bias."""
    torch.manual_seed(sum(map(ord, name)))
    out = IN if block else OUT
    x, w, bias, target = rand(ROWS, IN), rand(out, IN), rand(out), rand(ROWS, out)
    t = {n: rand(*shape).requires_grad_() for n, shape in tensors.items()}
    t0 = frozen(w) if frozen else {}
    x.requires_grad_()
    y = layer(x, w, bias, {**t, **t0})
    ((y - target) ** 2).sum().backward()
    put = lambda key, v: TENSORS.__setitem__(f"{name}/{key}", v.detach().float().contiguous())
    for key, v in {"x": x, "w": w, "bias": bias, "target": target, "y": y, "dx": x.grad}.items():
        put(key, v)
    for n, v in t.items():
        put("value." + n, v)
        put("grad." + n, v.grad)
    for n, v in t0.items():
        put("value." + n, v)
    CASES[name] = dict(method=method, **settings)


def add(delta):
    """delta(t) is the update of w (out, in)."""
    return lambda x, w, bias, t: x @ (w + delta(t)).T + bias


def lora(scale, a="lora_A.weight", b="lora_B.weight"):
    return lambda t: scale * t[b] @ t[a]


LORA = {"lora_A.weight": (3, IN), "lora_B.weight": (OUT, 3)}
# LoRA, arXiv 2106.09685: h = W0 x + alpha/r B A x; rsLoRA, arXiv 2312.03732: alpha/sqrt(r).
case("lora", "lora", add(lora(6 / 3)), LORA, rank="3", terms=1, alpha=6)
case("rslora", "lora", add(lora(6 / math.sqrt(3))), LORA, rank="3", terms=1, alpha=6, scaling="rslora")

# LSR-Adapt, arXiv 2502.13568: A = sum A1 (x) A2, B = sum B1 (x) B2, W' = W + scale A B.
LSR = {"lsr_A1": (4, 4, 2), "lsr_A2": (4, 3, 3), "lsr_B1": (4, 2, 6), "lsr_B2": (4, 3, 3)}
lsr = lambda t: 5 / 6 * (kron_sum(t["lsr_A1"], t["lsr_A2"]) @ kron_sum(t["lsr_B1"], t["lsr_B2"])).T
case("lsr", "lsr", add(lsr), LSR, rank="2x3", terms=4, alpha=5)

# KronA, arXiv 2212.10650: W' = W + s C (x) D.
case("krona", "krona", add(lambda t: 0.7 * kron_sum(t["krona_C"], t["krona_D"]).T), {"krona_C": (2, 4, 3), "krona_D": (2, 3, 6)}, rank="1", terms=2, alpha=0.7)


# KAdaptation, arXiv 2203.16329: sum A_i (x) (u_i v_i^T) with A_i = p_i q_i^T.
def kadaptation(t):
    p, q, u, v = (t["kadaptation_" + n] for n in "pquv")
    return 0.9 * sum(torch.kron(torch.outer(p[i], q[i]), torch.outer(u[i], v[i])) for i in range(3)).T


case("kadaptation", "kadaptation", add(kadaptation), {"kadaptation_p": (3, 3), "kadaptation_q": (3, 3), "kadaptation_u": (3, 4), "kadaptation_v": (3, 6)}, rank="1", terms=3, alpha=0.9)


# DoRA, arXiv 2402.09353: W' = m (W + V)/||W + V||, a norm per output; its section 4.3
# takes the norm for a constant in the backward pass.
def dora(delta, magnitude):
    def layer(x, w, bias, t):
        v = w + delta(t)
        return x @ ((t[magnitude] / v.norm(dim=1).detach())[:, None] * v).T + bias

    return layer


case("dora", "dora", dora(lora(2), "lora_magnitude_vector"), {**LORA, "lora_magnitude_vector": (OUT,)}, rank="3", terms=1, alpha=6)
case("lsr-dora", "lsr-dora", dora(lsr, "lsr_magnitude"), {**LSR, "lsr_magnitude": (OUT,)}, rank="2x3", terms=4, alpha=5)


# GraLoRA, arXiv 2505.20355: a grid of k x k blocks, each a LoRA of rank r/k.
def gralora(k, r, h, scale):
    q, i, o = r // k, IN // k, OUT // k

    def delta(t):
        rows = []
        for j in range(k):
            rows.append(torch.cat([t["gralora_B"][j, n * q : (n + 1) * q].T @ t["gralora_A"][n][:, j * q : (j + 1) * q].T for n in range(k)], dim=1))
        w = torch.cat(rows)
        if h:
            w = w + t["gralora_B_general.weight"] @ t["gralora_A_general.weight"]
        return scale * w

    return delta


GRID = {"gralora_A": (3, IN // 3, 6), "gralora_B": (3, 6, OUT // 3)}
case("gralora", "gralora", add(gralora(3, 6, 0, 4 / 6)), GRID, rank="6", terms=3, alpha=4)
case("gralora-hybrid", "gralora", add(gralora(3, 6, 2, 4 / 8)), {**GRID, "gralora_A_general.weight": (2, IN), "gralora_B_general.weight": (OUT, 2)}, rank="6", terms=3, alpha=4, hybrid=2)


# PiSSA, arXiv 2404.02948, and OLoRA, arXiv 2406.01775: the frozen rest W - s B0 A0
# and s B A. The adapter keeps A0 and -B0.
def rebased(scale):
    return lambda t: scale * (t["lora_B.weight"] @ t["lora_A.weight"] + t["lora_B0.weight"] @ t["lora_A0.weight"])


def pissa(w, scale=2.0, r=3):
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    root = torch.sqrt(s[:r] / scale)
    return {"lora_A0.weight": (root[:, None] * v[:r]).float().double(), "lora_B0.weight": (-u[:, :r] * root).float().double()}


def olora(w, r=3):
    q, upper = torch.linalg.qr(w)
    return {"lora_A0.weight": upper[:r].float().double(), "lora_B0.weight": (-q[:, :r]).float().double()}


case("pissa", "lora", add(rebased(2)), LORA, pissa, rank="3", terms=1, alpha=6, init="pissa")
case("olora", "lora", add(rebased(2)), LORA, olora, rank="3", terms=1, alpha=6, init="olora")

# DiffoRA (arXiv 2502.08905, reconstructed): a gate g = tanh(a) on a LoRA.
gated = lambda t: torch.tanh(t["diffora_gate"]) * 2 * t["diffora_B"][0] @ t["diffora_A"]
case("diffora", "diffora", add(gated), {"diffora_A": (3, IN), "diffora_B": (1, OUT, 3), "diffora_gate": (1,)}, rank="3", terms=1, alpha=6)

# LoR2C, arXiv 2503.00572: out = Block(x) + scale B A x; here the block is the layer.
for method in ("lor2c", "sharelor2c"):
    case(method, method, lambda x, w, bias, t: x @ w.T + bias + 2 * (x @ t["lor2c_A"].T) @ t["lor2c_B"].T, {"lor2c_A": (3, IN), "lor2c_B": (IN, 3)}, block=True, rank="3", terms=1, alpha=6)

save_file(TENSORS, "methods.safetensors", metadata={"cases": json.dumps(CASES, sort_keys=True), "versions": json.dumps({"torch": torch.__version__})})
print(len(CASES), "cases", sum(t.numel() for t in TENSORS.values()) * 4, "bytes")
