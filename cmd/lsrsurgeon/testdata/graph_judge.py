"""Runs ONNX graphs with adapters in ONNX Runtime.

graph_judge.py export MODEL_DIR CLASS OUT.onnx: transformers' CLASS of MODEL_DIR,
exported by torch.onnx (TorchScript exporter, opset 17, free batch and sequence).
graph_judge.py run IDS.json OUT.json NAME:GRAPH.onnx[:FILE.onnx_adapter] ...: checks
each graph with onnx.checker, runs the sequences of IDS.json as one batch padded at the
end, with the adapter active where one is given, and writes the rows of the outputs that
stand for tokens by NAME.
Versions used: torch 2.15.0, transformers 5.24.0, onnx 1.23.2, onnxruntime 1.32.0.
"""
import json
import logging
import sys
import warnings

import numpy as np

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def export(path, kind, out):
    import torch
    import transformers as tf

    tf.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    m = getattr(tf, kind).from_pretrained(path, dtype=torch.float32, attn_implementation="eager", num_labels=2).eval()
    forward = m.forward  # with these two arguments, so that parameters keep their names
    cache = {} if kind.endswith("SequenceClassification") else {"use_cache": False}
    m.forward = lambda input_ids, attention_mask: forward(input_ids=input_ids, attention_mask=attention_mask, **cache).logits
    ids = torch.randint(3, m.config.vocab_size, (2, 7))
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        m, (ids, torch.ones_like(ids)), out, input_names=names, output_names=["logits"], opset_version=17, dynamo=False,
        dynamic_axes={n: {0: "batch", 1: "sequence"} for n in names})


def run(ids, out, *graphs):
    import onnx
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    rows = json.load(open(ids))
    longest = max(len(r) for r in rows)
    pad = lambda rs: np.array([r + [0] * (longest - len(r)) for r in rs], np.int64)
    feed = {"input_ids": pad(rows), "attention_mask": pad([[1] * len(r) for r in rows]), "token_type_ids": pad([[0] * len(r) for r in rows])}
    results = {}
    for g in graphs:
        name, path, *adapter = g.split(":")
        onnx.checker.check_model(path, full_check=True)
        s = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        inputs = [i.name for i in s.get_inputs()]
        o = ort.RunOptions()
        for a in adapter:
            file = ort.LoraAdapter()
            file.Load(a)
            o.add_active_adapter(file)
        y = s.run(["logits"], {k: v for k, v in feed.items() if k in inputs}, o)[0]
        results[name] = [(z if z.ndim == 1 else z[: len(r)]).reshape(-1).tolist() for z, r in zip(y, rows)]
    json.dump(results, open(out, "w"))


{"export": export, "run": run}[sys.argv[1]](*sys.argv[2:])
