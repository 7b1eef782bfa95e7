"""Writes schedule.json: learning rate factors of transformers' schedules.

Run: python gen_schedule.py
"""

import json
import os

import torch
import transformers

KINDS = {
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "constant": lambda o, num_warmup_steps, num_training_steps: transformers.get_constant_schedule_with_warmup(o, num_warmup_steps),
}


def factors(kind, warmup, steps):
    p = torch.nn.Parameter(torch.zeros(1))
    opt = torch.optim.SGD([p], lr=1.0)
    sched = KINDS[kind](opt, num_warmup_steps=warmup, num_training_steps=steps)
    out = []
    for _ in range(steps + 2):
        out.append(opt.param_groups[0]["lr"])
        opt.step()
        sched.step()
    return out


if __name__ == "__main__":
    cases = [
        {"schedule": k, "warmup": w, "steps": s, "factors": factors(k, w, s)}
        for k in KINDS
        for w, s in [(0, 1), (0, 10), (1, 10), (6, 100), (10, 10), (12, 10), (21, 345)]
    ]
    out = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "cases": cases}
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schedule.json")
    with open(path, "w", encoding="ascii") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")
