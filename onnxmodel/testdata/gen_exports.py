"""Exports tiny random models to ONNX and records what ONNX Runtime computes with them.

    HF_HUB_OFFLINE=1 python gen_exports.py OUT_DIR [CASE ...]

Without cases all are made; --committed makes those that lie beside this script,
--sample all of the TorchScript exporter and a few of the dynamo exporter.
Each case is a directory OUT_DIR/<case>/ with model.onnx, and golden.safetensors:
packed token ids, type ids, cumulative lengths, and the logits of ONNX Runtime,
which gets one sequence at a time, without padding. The same weights are beside
it in OUT_DIR/<family>/ as model.safetensors with config.json, so that the
program of an import can be compared with that of the checkpoint. Traces of the
exporter's source lines are removed from the graphs, names of modules stay.

The exporters are torch.onnx's two, TorchScript and dynamo (which needs
onnxscript), with attention written out ("eager") and as
scaled_dot_product_attention ("sdpa"), and ONNX Runtime's transformer optimizer
for the fused operators of com.microsoft. The versions of the libraries stand in
the metadata of golden.safetensors.
"""

import importlib.util
import os
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from safetensors.torch import save_file

warnings.filterwarnings("ignore")

LENGTHS = [5, 1, 9, 3]
VOCAB = 64

FAMILIES = {
    "bert": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
            max_position_embeddings=20, num_labels=3, pad_token_id=0,
        )
    ),
    "roberta": lambda: transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
            max_position_embeddings=20, num_labels=2, pad_token_id=1, type_vocab_size=1,
        )
    ),
    "encoder": lambda: transformers.BertModel(
        transformers.BertConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=20, hidden_act="gelu_new",
        )
    ),
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(vocab_size=VOCAB, dim=16, n_layers=2, n_heads=4, hidden_dim=24, max_position_embeddings=20)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=20, bos_token_id=0, eos_token_id=0)
    ),
    "gpt2-classifier": lambda: transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(
            vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=20, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=32, max_position_embeddings=32, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0,
        )
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=24, max_position_embeddings=32, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        )
    ),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=24, max_position_embeddings=32, sliding_window=4, bos_token_id=0, eos_token_id=0,
        )
    ),
}


class Wrap(torch.nn.Module):
    """Gives a transformers model positional inputs and tensors as outputs."""

    def __init__(self, model, types, outputs):
        super().__init__()
        self.model, self.types, self.outputs = model, types, outputs

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        kw = {"token_type_ids": token_type_ids} if self.types else {}
        if self.model.config.model_type in ("gpt2", "llama", "qwen2", "mistral"):
            kw["use_cache"] = False
        y = self.model(input_ids=input_ids, attention_mask=attention_mask, **kw)
        return tuple(y[o] for o in self.outputs)


def make(family, attention):
    torch.manual_seed(20 + sorted(FAMILIES).index(family))
    model = FAMILIES[family]()
    model.config._attn_implementation = attention
    for name, p in model.named_parameters():  # random everywhere, so that no scale or bias can be lost
        torch.nn.init.normal_(p, mean=1.0 if p.dim() == 1 and name.endswith("weight") else 0.0, std=0.15)
    return model.eval()


def export(model, family, path, exporter, opset):
    types = family in ("bert", "encoder")
    outputs = ("last_hidden_state", "pooler_output") if family == "encoder" else ("logits",)
    wrapped = Wrap(model, types, outputs)
    ids = torch.randint(3, VOCAB, (2, 7))
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if types else [])
    args = (ids, torch.ones_like(ids)) + ((torch.zeros_like(ids),) if types else ())
    kw = dict(input_names=names, output_names=list(outputs), opset_version=opset)
    if exporter == "dynamo":
        b, t = torch.export.Dim("batch"), torch.export.Dim("sequence")
        shapes = tuple({0: b, 1: t} for _ in args)
        torch.onnx.export(wrapped, args, path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False, **kw)
    else:
        axes = {n: {0: "batch", 1: "sequence"} for n in names}
        axes.update({o: {0: "batch"} if family != "encoder" or o == "pooler_output" else {0: "batch", 1: "sequence"} for o in outputs})
        torch.onnx.export(wrapped, args, path, dynamo=False, dynamic_axes=axes, do_constant_folding=True, **kw)


def fuse(path, family, heads, hidden):
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    kind = "gpt2" if family.startswith("gpt2") else "bert"
    o = optimizer.optimize_model(path, model_type=kind, num_heads=heads, hidden_size=hidden, opt_level=0, optimization_options=FusionOptions(kind))
    o.save_model_to_file(path)


CASES = {}
for family in FAMILIES:
    for exporter in ("torchscript", "dynamo"):
        for attention in ("eager", "sdpa"):
            CASES[f"{family}-{exporter}-{attention}"] = (family, exporter, attention, 17 if exporter == "torchscript" else 20, None)
CASES["bert-torchscript-opset11"] = ("bert", "torchscript", "eager", 11, None)
CASES["bert-torchscript-opset14-sdpa"] = ("bert", "torchscript", "sdpa", 14, None)
CASES["llama-dynamo-opset23"] = ("llama", "dynamo", "sdpa", 23, None)
CASES["bert-dynamo-opset23"] = ("bert", "dynamo", "sdpa", 23, None)
CASES["bert-fused"] = ("bert", "torchscript", "eager", 17, (4, 16))
CASES["gpt2-fused"] = ("gpt2", "torchscript", "eager", 17, (4, 16))


COMMITTED = [
    "bert-torchscript-eager", "bert-dynamo-sdpa", "bert-dynamo-opset23", "bert-fused", "roberta-torchscript-sdpa", "encoder-torchscript-eager",
    "gpt2-torchscript-eager", "gpt2-classifier-torchscript-sdpa", "gpt2-fused", "llama-dynamo-eager", "llama-dynamo-opset23", "mistral-dynamo-sdpa",
]

# An export by dynamo takes ten times as long as one by TorchScript.
SAMPLE = [c for c in CASES if "dynamo" not in c] + ["distilbert-dynamo-sdpa", "qwen2-dynamo-eager", "gpt2-dynamo-sdpa"]


def strip(path):
    """Removes what the exporter tells about its sources."""
    m = onnx.load(path)
    keep = "pkg.torch.onnx.name_scopes"
    for n in m.graph.node:
        n.doc_string = ""
        kept = [p for p in n.metadata_props if p.key == keep]
        del n.metadata_props[:]
        n.metadata_props.extend(kept)
    for v in list(m.graph.value_info) + list(m.graph.input) + list(m.graph.output) + list(m.graph.initializer):
        if hasattr(v, "metadata_props"):
            del v.metadata_props[:]
    del m.graph.value_info[:]
    onnx.save(m, path)


def golden(path, family, out):
    s = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(5)
    names = {i.name for i in s.get_inputs()}
    seqs = [rng.integers(3, VOCAB, n).astype(np.int64) for n in LENGTHS]
    types = [(np.arange(n) >= (n + 1) // 2).astype(np.int64) for n in LENGTHS]
    results = {}
    for ids, tt in zip(seqs, types):
        feed = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64), "token_type_ids": tt[None]}
        for o, y in zip(s.get_outputs(), s.run(None, {k: v for k, v in feed.items() if k in names})):
            results.setdefault(o.name, []).append(y.reshape(-1, y.shape[-1]))
    data = {
        "ids": torch.tensor(np.concatenate(seqs), dtype=torch.int32),
        "types": torch.tensor(np.concatenate(types), dtype=torch.int32),
        "cu_seqlens": torch.tensor(np.cumsum([0] + LENGTHS), dtype=torch.int32),
    }
    for k, v in results.items():
        data[k] = torch.tensor(np.concatenate(v), dtype=torch.float32)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, onnx, onnxruntime)}
    if importlib.util.find_spec("onnxscript"):
        import onnxscript

        versions["onnxscript"] = onnxscript.__version__
    save_file(data, out, metadata=versions)


def main():
    root, wanted = sys.argv[1], sys.argv[2:] or list(CASES)
    if wanted == ["--committed"]:
        wanted = COMMITTED
    elif wanted == ["--sample"]:
        wanted = SAMPLE
    for case in wanted:
        family, exporter, attention, opset, fused = CASES[case]
        dir = os.path.join(root, case)
        os.makedirs(dir, exist_ok=True)
        path = os.path.join(dir, "model.onnx")
        model = make(family, attention)
        try:
            export(model, family, path, exporter, opset)
            if fused:
                fuse(path, family, *fused)
            strip(path)
            golden(path, family, os.path.join(dir, "golden.safetensors"))
        except Exception as e:
            sys.exit(f"{case}: {type(e).__name__}: {str(e)[:300]}")
        base = os.path.join(root, family)
        if not os.path.exists(base):
            model.save_pretrained(base)
        print(case, os.path.getsize(path))


if __name__ == "__main__":
    main()
