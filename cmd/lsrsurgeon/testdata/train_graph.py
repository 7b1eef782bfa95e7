"""Exports a model to ONNX by torch, and runs graphs in ONNX Runtime.

    python train_graph.py export FAMILY EXPORTER BASE OUT_DIR
    python train_graph.py run MODEL.onnx IDS.json OUT.json

export: FAMILY is minilm (BASE with a classification head of two classes), gpt2
or llama (small random weights, over BASE's vocabulary); EXPORTER torchscript or dynamo.
OUT_DIR receives model.onnx and BASE's tokenizer.
run: IDS.json holds a list of sequences, each [ids, types]; OUT.json receives
the logits of each.
"""

import json
import os
import shutil
import sys
import warnings

import numpy as np

warnings.filterwarnings("ignore")


def make(family, base):
    import torch
    import transformers as tf

    torch.manual_seed(3)
    small = dict(vocab_size=30522, bos_token_id=0, eos_token_id=0)
    if family == "minilm":
        m = tf.BertForSequenceClassification.from_pretrained(base, num_labels=2)
    elif family == "gpt2":
        m = tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **small))
    else:
        m = tf.LlamaForCausalLM(tf.LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
            max_position_embeddings=128, **small))
    return m.eval()


def export(family, exporter, base, out):
    import torch

    model = make(family, base)
    types = family == "minilm"

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids=None):
            kw = {"token_type_ids": token_type_ids} if types else {"use_cache": False}
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **kw).logits

    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, "model.onnx")
    ids = torch.randint(5, 1000, (2, 9))
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * types
    args = (ids, torch.ones_like(ids)) + (torch.zeros_like(ids),) * types
    if exporter == "dynamo":
        b, t = torch.export.Dim("batch"), torch.export.Dim("sequence")
        torch.onnx.export(Logits(), args, path, dynamo=True, input_names=names, output_names=["logits"],
                          dynamic_shapes=tuple({0: b, 1: t} for _ in args), external_data=True, verbose=False)
    else:
        axes = {n: {0: "batch", 1: "sequence"} for n in names}
        axes["logits"] = {0: "batch"} if types else {0: "batch", 1: "sequence"}
        torch.onnx.export(Logits(), args, path, dynamo=False, input_names=names, output_names=["logits"], opset_version=17, dynamic_axes=axes)
    for f in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if os.path.exists(os.path.join(base, f)):
            shutil.copy(os.path.join(base, f), out)


def run(model, ids, out):
    import onnxruntime

    s = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = {i.name for i in s.get_inputs()}
    with open(ids) as f:
        sequences = json.load(f)
    logits = []
    for i, t in sequences:
        feed = {"input_ids": [i], "attention_mask": [[1] * len(i)], "token_type_ids": [t]}
        y = s.run(["logits"], {k: np.array(v, np.int64) for k, v in feed.items() if k in names})[0]
        logits.append(y.astype(np.float64).reshape(-1).tolist())
    with open(out, "w") as f:
        json.dump(logits, f)


if __name__ == "__main__":
    {"export": export, "run": run}[sys.argv[1]](*sys.argv[2:])
