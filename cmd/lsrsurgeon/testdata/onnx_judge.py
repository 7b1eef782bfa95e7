"""Judges merges into ONNX models.

onnx_judge.py make DIR: a small BERT with random weights exported by
torch.onnx (bert.onnx), with its embeddings' weight shared with an output layer
(tied.onnx), PEFT LoRA adapters for both (lora, lora_tied) and PEFT's outputs.
onnx_judge.py check DIR: prints, for both, the largest difference of ONNX
Runtime's outputs of the merged model from PEFT's, and that of the base.
Versions used: torch 2.15.0, transformers 5.24.0, peft 0.21.2, onnx 1.23.2, onnxruntime 1.32.0.
"""
import sys
import warnings

import numpy as np

warnings.filterwarnings("ignore")
what, d = sys.argv[1:]


def make():
    import peft
    import torch
    import transformers as tf

    torch.manual_seed(0)
    c = tf.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=32, attn_implementation="eager")
    bert = tf.BertModel(c).eval()

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert

        def forward(self, ids, mask):
            return self.bert(input_ids=ids, attention_mask=mask).last_hidden_state

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(50, 32)
            self.head = torch.nn.Linear(32, 50)
            self.head.weight = self.embed.weight

        def forward(self, ids, mask):
            x = self.embed(ids) * mask.unsqueeze(-1)
            return self.head(x.reshape(-1, 32))  # two dimensions: Gemm with transB

    ids = torch.randint(0, 50, (2, 7))
    mask = torch.ones_like(ids)
    np.savez(d + "/inputs.npz", ids=ids.numpy(), mask=mask.numpy())
    for name, m, targets in (("bert", Encoder(), ["query", "value", "intermediate.dense"]), ("tied", Tied(), ["head"])):
        m = m.eval()
        torch.onnx.export(m, (ids, mask), f"{d}/{name}.onnx", input_names=["ids", "mask"], opset_version=17, dynamo=False, do_constant_folding=name == "bert")
        p = peft.get_peft_model(m, peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).eval()
        p.save_pretrained(f"{d}/lora_{name}")
        with torch.no_grad():
            np.save(f"{d}/{name}.npy", p(ids, mask).numpy())


def check():
    import onnx
    import onnxruntime as ort

    for name in ("bert", "tied"):
        inputs = dict(np.load(d + "/inputs.npz"))
        want = np.load(f"{d}/{name}.npy")
        diffs = []
        for path in (f"{d}/merged_{name}.onnx", f"{d}/{name}.onnx"):
            onnx.checker.check_model(path, full_check=True)
            s = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
            diffs.append(float(np.abs(s.run(None, inputs)[0] - want).max()))
        print(name, *diffs)


{"make": make, "check": check}[what]()
