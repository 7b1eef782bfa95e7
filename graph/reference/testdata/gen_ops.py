#!/usr/bin/env python3
"""Writes ops.json: results and gradients of operations by PyTorch in float64.

Run: python3 gen_ops.py > ops.json
Settings are powers of two, so that float32 holds them exactly.
"""
import json
import sys

import torch
import torch.nn.functional as F
import transformers
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

torch.manual_seed(20250311)
torch.set_default_dtype(torch.float64)
cases = {}


def array(t):
    return {"shape": list(t.shape), "data": t.detach().reshape(-1).tolist()}


def record(name, **tensors):
    cases[name] = {k: array(v.double()) for k, v in tensors.items()}


def randn(*shape, grad=True):
    # Rounded to float32, which is what weights are stored as.
    return torch.randn(*shape).float().double().requires_grad_(grad)


def activations():
    for name, f in {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "silu": F.silu,
        "tanh": torch.tanh,
    }.items():
        x = (4 * torch.randn(3, 7)).requires_grad_()
        dy = torch.randn(3, 7)
        y = f(x)
        y.backward(dy)
        record("activate/" + name, x=x, dy=dy, y=y, dx=x.grad)


def norms():
    x, gamma, beta, dy = randn(4, 9), randn(9, grad=False), randn(9, grad=False), torch.randn(4, 9)
    y = F.layer_norm(x, (9,), gamma, beta, eps=2**-16)
    y.backward(dy)
    record("norm/layer", x=x, gamma=gamma, beta=beta, dy=dy, y=y, dx=x.grad)
    x = randn(4, 9)
    y = F.rms_norm(x, (9,), gamma, eps=2**-16)
    y.backward(dy)
    record("norm/rms", x=x, gamma=gamma, dy=dy, y=y, dx=x.grad)


def attention():
    lens, heads, kv, dim = [5, 1, 8], 4, 2, 3
    for name, causal, window in [("full", False, 0), ("causal", True, 0), ("window", True, 3)]:
        n = sum(lens)
        q, k, v, dy = randn(n, heads * dim), randn(n, kv * dim), randn(n, kv * dim), torch.randn(n, heads * dim)
        rows = []
        lo = 0
        for t in lens:
            part = lambda x, h: x[lo : lo + t].reshape(t, h, dim).transpose(0, 1)[None]
            i = torch.arange(t)
            mask = torch.ones(t, t, dtype=torch.bool)
            if causal:
                mask &= i[None, :] <= i[:, None]
            if window:
                mask &= i[:, None] - i[None, :] < window
            y = F.scaled_dot_product_attention(part(q, heads), part(k, kv), part(v, kv), attn_mask=mask, scale=0.5, enable_gqa=True)
            rows.append(y[0].transpose(0, 1).reshape(t, heads * dim))
            lo += t
        y = torch.cat(rows)
        y.backward(dy)
        record("attention/" + name, q=q, k=k, v=v, dy=dy, y=y, dq=q.grad, dk=k.grad, dv=v.grad)


def rope():
    lens, heads, dim = [5, 1, 8], 2, 6
    freq = torch.tensor([1.0, 0.25, 0.0625])
    pos = torch.cat([torch.arange(t) for t in lens]).double()
    angle = torch.cat([pos[:, None] * freq, pos[:, None] * freq], dim=-1)
    x, dy = randn(sum(lens), heads * dim), torch.randn(sum(lens), heads * dim)
    h = x.reshape(-1, heads, dim).transpose(0, 1)[None]
    y, _ = apply_rotary_pos_emb(h, h, angle.cos()[None], angle.sin()[None])
    y = y[0].transpose(0, 1).reshape(-1, heads * dim)
    y.backward(dy)
    record("rope", x=x, dy=dy, y=y, dx=x.grad)


def losses():
    labels = torch.tensor([2, -1, 0, 4])
    x = randn(4, 5)
    loss = F.cross_entropy(x, labels, ignore_index=-1, reduction="sum") * 0.25
    loss.backward()
    record("cross_entropy", x=x, labels=labels, loss=loss, dx=x.grad)

    x, w, bias = randn(4, 6), randn(5, 6, grad=False), randn(5, grad=False)
    loss = F.cross_entropy(F.linear(x, w, bias), labels, ignore_index=-1, reduction="sum") * 0.25
    loss.backward()
    record("lm_loss", x=x, w=w, bias=bias, labels=labels, loss=loss, dx=x.grad)

    x, target = randn(4, 3), randn(4, 3, grad=False)
    loss = F.mse_loss(x, target, reduction="sum") * 0.25
    loss.backward()
    record("mse", x=x, target=target, loss=loss, dx=x.grad)

    x, target = (6 * torch.randn(4, 3)).requires_grad_(), (torch.rand(4, 3) > 0.5).double()
    loss = F.binary_cross_entropy_with_logits(x, target, reduction="sum") * 0.25
    loss.backward()
    record("bce", x=x, target=target, loss=loss, dx=x.grad)


def kron():
    s, a1, r1, a2, r2, n, m = 3, 3, 2, 4, 2, 11, 4
    f1, f2 = randn(s, a1 * r1), randn(s, a2 * r2)
    k = sum(torch.kron(f1[i].reshape(a1, r1), f2[i].reshape(a2, r2)) for i in range(s))[:n, :m]
    x, dy = randn(5, n), torch.randn(5, m)
    y = 0.5 * x @ k
    y.backward(dy)
    record("kron", f1=f1, f2=f2, x=x, dy=dy, k=k, y=y, df1=f1.grad, df2=f2.grad, dx=x.grad)


def adamw():
    w = torch.nn.Parameter(randn(6, grad=False))
    start = w.detach().clone()
    opt = torch.optim.AdamW([w], lr=2**-6, betas=(0.875, 0.96875), eps=2**-10, weight_decay=0.125)
    grads, norms, after = [], [], []
    for _ in range(4):
        w.grad = randn(6, grad=False).detach()
        grads.append(w.grad.clone())
        norms.append(torch.nn.utils.clip_grad_norm_([w], 2.0))
        opt.step()
        after.append(w.detach().clone())
    state = opt.state[w]
    record("adamw", start=start, grads=torch.stack(grads), norms=torch.stack(norms), after=torch.stack(after), m=state["exp_avg"], v=state["exp_avg_sq"])


for f in (activations, norms, attention, rope, losses, kron, adamw):
    f()
json.dump({"versions": {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__}, "cases": cases}, sys.stdout, indent=None, separators=(",", ":"))
print()
