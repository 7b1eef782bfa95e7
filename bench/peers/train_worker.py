#!/usr/bin/env python3
"""PyTorch + PEFT's side of a training comparison, as a worker.

Builds the model, prints {"ready": true, ...}, then runs one pass over its fixed batches for every line on
stdin and prints {"value": tokens per second}; at the end {"peak_rss_mb": ...}. Batches have MRPC-like lengths
(lengths.json), padded to the longest of a batch as a data collator does; tokens per second count real tokens.
"""
import argparse, contextlib, json, os, resource, sys, time, warnings
ap = argparse.ArgumentParser()
ap.add_argument("--arch", choices=["roberta", "minilm", "gpt2"], default="roberta")
ap.add_argument("--method", choices=["lora", "lsr", "frozen"], default="lora")
ap.add_argument("--precision", choices=["f32", "bf16"], default="f32")
ap.add_argument("--batch", type=int, default=32)
ap.add_argument("--batches", type=int, default=1)
ap.add_argument("--dropout", type=float, default=0.1)
ap.add_argument("--rank", type=int, default=8)
ap.add_argument("--seq", type=int, default=256)
ap.add_argument("--threads", type=int, default=2)
a = ap.parse_args()
for v in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"): os.environ[v] = str(a.threads)
os.environ["TRANSFORMERS_VERBOSITY"] = "error"; warnings.simplefilter("ignore")
import torch
from torch import nn
from torch.nn import functional as F
torch.set_num_threads(a.threads); torch.manual_seed(0)
d = a.dropout
if a.arch == "roberta":
    from transformers import RobertaConfig, RobertaForSequenceClassification
    model = RobertaForSequenceClassification(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, num_labels=2,
        hidden_dropout_prob=d, attention_probs_dropout_prob=d)); targets, kind, vocab, pad = ["query", "value"], "SEQ_CLS", 50265, 1
elif a.arch == "minilm":
    from transformers import BertConfig, BertForSequenceClassification
    model = BertForSequenceClassification(BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_labels=2,
        hidden_dropout_prob=d, attention_probs_dropout_prob=d)); targets, kind, vocab, pad = ["query", "value"], "SEQ_CLS", 30522, 0
else:
    from transformers import GPT2Config, GPT2LMHeadModel
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=d, embd_pdrop=d, attn_pdrop=d)); targets, kind, vocab, pad = ["c_attn"], "CAUSAL_LM", 50257, 0


class LSRLinear(nn.Module):
    """y = base(x) + scale * B(A x), the thin factors materialised from their Kronecker terms each step."""
    def __init__(s, base, terms=16, r=2, p=0.0):
        super().__init__(); n, f = base.in_features, (32 if base.in_features == 768 else 24)
        s.base, s.drop = base, nn.Dropout(p)
        s.A1 = nn.Parameter(torch.randn(terms, r, f) * .1); s.A2 = nn.Parameter(torch.randn(terms, r, n // f) * .1)
        s.B1 = nn.Parameter(torch.randn(terms, f, r) * .1); s.B2 = nn.Parameter(torch.zeros(terms, n // f, r))
    @staticmethod
    def build(p, q):
        return torch.einsum("kab,kcd->acbd", p, q).reshape(p.shape[1] * q.shape[1], p.shape[2] * q.shape[2])
    def forward(s, x):
        return s.base(x) + 32 * F.linear(F.linear(s.drop(x), s.build(s.A1, s.A2)), s.build(s.B1, s.B2))


if a.method == "lora":
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(model, LoraConfig(task_type=kind, r=a.rank, lora_alpha=16, lora_dropout=d, target_modules=targets, fan_in_fan_out=a.arch == "gpt2"))
elif a.method == "lsr":
    for n, p in model.named_parameters(): p.requires_grad_("classifier" in n)
    for n, m in list(model.named_modules()):
        if n.split(".")[-1] in targets and isinstance(m, nn.Linear):
            setattr(model.get_submodule(n.rsplit(".", 1)[0]), n.split(".")[-1], LSRLinear(m, p=d))
else:
    model.requires_grad_(False)
train = a.method != "frozen"; model.train(train)
opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4) if train else None
g = torch.Generator().manual_seed(1234)
lengths = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lengths.json")))
batches, real = [], 0
for i in range(a.batches):
    if a.arch == "gpt2":
        ids = torch.randint(0, vocab, (a.batch, a.seq), generator=g); real += ids.numel()
        batches.append(dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)); continue
    ls = torch.tensor(lengths[i * a.batch:(i + 1) * a.batch]); real += int(ls.sum())
    mask = (torch.arange(int(ls.max()))[None] < ls[:, None]).long()
    ids = torch.where(mask == 1, torch.randint(5, vocab, mask.shape, generator=g), torch.tensor(pad))
    batches.append(dict(input_ids=ids, attention_mask=mask, labels=torch.randint(0, 2, (a.batch,), generator=g)))
ctx = (lambda: torch.autocast("cpu", dtype=torch.bfloat16)) if a.precision == "bf16" else contextlib.nullcontext


def one_pass():
    for b in batches:
        if not train:
            with torch.inference_mode(), ctx(): model(**b)
            continue
        opt.zero_grad(set_to_none=True)
        with ctx(): loss = model(**b).loss
        loss.backward(); opt.step()


one_pass()  # the first step allocates
print(json.dumps({"ready": True, "tokens": real, "torch": torch.__version__}), flush=True)
for _ in sys.stdin:
    t = time.perf_counter(); one_pass(); print(json.dumps({"value": real / (time.perf_counter() - t)}), flush=True)
print(json.dumps({"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)
