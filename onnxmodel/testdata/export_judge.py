"""Judges exported ONNX models with onnx.checker, ONNX Runtime and transformers.

    python export_judge.py MODEL_DIR:HEAD:FILE.onnx ...

For each, HEAD being none, classification or lm, prints the head, the largest
difference of ONNX Runtime's outputs from transformers', and the largest output.
Sequences of several lengths run as one batch in ONNX Runtime, padded once
at the end and once at the front, and each alone without padding in
transformers.
Versions used: torch 2.15.0, transformers 5.24.0, onnx 1.23.2, onnxruntime 1.32.0.
"""
import logging
import sys
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers as tf

warnings.filterwarnings("ignore")
tf.utils.logging.set_verbosity_error()
tf.utils.logging.disable_progress_bar()
logging.disable(logging.WARNING)
CLASSES = {"none": tf.AutoModel, "classification": tf.AutoModelForSequenceClassification, "lm": tf.AutoModelForCausalLM}

for case in sys.argv[1:]:
    path, head, file = case.split(":")
    onnx.checker.check_model(file, full_check=True)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    model = CLASSES[head].from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    rng = np.random.default_rng(0)
    lengths = [9, 1, 5, 12]
    rows = [rng.integers(3, model.config.vocab_size, n) for n in lengths]
    want = []
    with torch.no_grad():
        for r in rows:
            y = model(input_ids=torch.tensor(r)[None])
            want.append((y.last_hidden_state if head == "none" else y.logits)[0].double().numpy())
    worst = 0.0
    for front in (False, True):
        pad = lambda r: (max(lengths) - len(r), 0) if front else (0, max(lengths) - len(r))
        feed = {
            "input_ids": np.stack([np.pad(r, pad(r)) for r in rows]),
            "attention_mask": np.stack([np.pad(np.ones_like(r), pad(r)) for r in rows]),
            "token_type_ids": np.zeros((len(rows), max(lengths)), np.int64),
        }
        names = [i.name for i in session.get_inputs()]
        got = session.run(None, {k: v for k, v in feed.items() if k in names})[0]
        for i, (g, w) in enumerate(zip(got, want)):
            if g.ndim == 2:
                g = g[len(g) - lengths[i] :] if front else g[: lengths[i]]
            assert g.shape == w.shape, (g.shape, w.shape)
            worst = max(worst, float(np.abs(g - w).max()))
    print(head, worst, max(float(np.abs(w).max()) for w in want))
