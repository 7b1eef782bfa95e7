"""Adapters by PEFT on the tiny checkpoints of this directory, and their logits.

    python gen_peft.py goldens                 peft/NAME: adapters that PEFT saved,
                                               logits.safetensors beside them;
                                               blocks/NAME: connections around blocks
                                               (LoR2C, arXiv 2503.00572), by hooks
    python gen_peft.py logits MODEL ADAPTER [MODEL ADAPTER ...]
                                               loads adapters with PEFT, fails on any
                                               warning, writes ADAPTER/logits.safetensors

All in float32. Logits are (sequences, labels) of a classifier, (tokens, vocabulary)
of a language model, for the batch of MODEL/golden.safetensors, a sequence at a time.
"""

import json
import os
import sys
import tempfile
import warnings

import peft
import torch
import transformers
from peft import GraloraConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
VERSIONS = {m.__name__: m.__version__ for m in (peft, torch, transformers)}
ROBERTA = dict(target_modules=["query", "value", "intermediate.dense"])
GPT2 = dict(target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)

ADAPTERS = {
    "lora": ("roberta", LoraConfig(r=3, lora_alpha=6, **ROBERTA)),
    "rslora": ("gpt2", LoraConfig(r=4, lora_alpha=6, use_rslora=True, **GPT2)),
    "lokr": ("roberta", LoKrConfig(r=2, alpha=6, **ROBERTA)),
    "dora": ("roberta", LoraConfig(r=3, lora_alpha=6, use_dora=True, rank_pattern={"query": 2}, alpha_pattern={"value": 5}, **ROBERTA)),
    "dora_conv1d": ("gpt2", LoraConfig(r=2, lora_alpha=5, use_dora=True, use_rslora=True, **GPT2)),
    "gralora": ("roberta", GraloraConfig(r=6, alpha=9, gralora_k=2, **ROBERTA)),
    "gralora_hybrid": ("roberta", GraloraConfig(r=8, alpha=5, gralora_k=4, hybrid_r=3, **ROBERTA)),
    "gralora_conv1d": ("gpt2", GraloraConfig(r=4, alpha=4, gralora_k=2, **GPT2)),
    "pissa": ("roberta", LoraConfig(r=3, lora_alpha=6, init_lora_weights="pissa", **ROBERTA)),
    "olora": ("roberta", LoraConfig(r=3, lora_alpha=3, init_lora_weights="olora", **ROBERTA)),
}


def load(path):
    config = transformers.AutoConfig.from_pretrained(path)
    kind = getattr(transformers, config.architectures[0])
    return kind.from_pretrained(path, dtype=torch.float32).eval()


def logits(model, path):
    batch = load_file(os.path.join(path, "golden.safetensors"))
    ends = batch["cu_seqlens"].tolist()
    rows = []
    with torch.no_grad():
        for lo, hi in zip(ends, ends[1:]):
            y = model(input_ids=batch["ids"][lo:hi].long()[None], attention_mask=torch.ones(1, hi - lo, dtype=torch.long)).logits
            rows.append(y.reshape(-1, y.shape[-1]))
    return torch.cat(rows)


def write_logits(model, path, out):
    save_file({"logits": logits(model, path).contiguous()}, os.path.join(out, "logits.safetensors"), metadata=VERSIONS)


def goldens():
    for name, (base, config) in ADAPTERS.items():
        path, out = os.path.join(HERE, base), os.path.join(HERE, "peft", name)
        m = get_peft_model(load(path), config).eval()
        rebased = getattr(config, "init_lora_weights", None) in ("pissa", "olora")
        with tempfile.TemporaryDirectory() as start:
            if rebased:
                m.peft_config["default"].init_lora_weights = True
                m.save_pretrained(start)
            g = torch.Generator().manual_seed(1)
            for n, p in m.named_parameters():
                if p.requires_grad:
                    noise = torch.randn(p.shape, generator=g) / 4
                    near = rebased or "magnitude" in n
                    p.data = p.data + noise / 4 if near else noise
            kw = {"path_initial_model_for_weight_conversion": start} if rebased else {}
            write_logits(m, path, (os.makedirs(out, exist_ok=True), out)[1])
            m.save_pretrained(out, **kw)
        os.remove(os.path.join(out, "README.md"))
        file = os.path.join(out, "adapter_config.json")
        saved = json.load(open(file))
        saved["base_model_name_or_path"] = base
        json.dump(saved, open(file, "w"), indent=2, sort_keys=True)
        print(name, float(load_file(os.path.join(out, "logits.safetensors"))["logits"].abs().max()))


# name: base, its blocks, shared A, {first block: blocks spanned}
BLOCKS = {
    "lor2c": ("roberta", "roberta.encoder.layer", False, {0: 1, 1: 1}),
    "lor2c_span": ("roberta", "roberta.encoder.layer", False, {0: 2}),
    "sharelor2c": ("roberta", "roberta.encoder.layer", True, {0: 1, 1: 1}),
    "lor2c_llama": ("llama", "model.layers", False, {0: 1, 1: 1}),
    "lor2c_gpt2": ("gpt2", "transformer.h", False, {0: 1, 1: 1}),
}


def connect(layers, first, span, scale, a, b):
    """Adds scale * x A^T B^T of the input x of block first to the output of the last."""
    kept = {}

    def before(module, args, kwargs):
        kept["x"] = args[0] if args else kwargs["hidden_states"]

    def after(module, args, kwargs, out):
        y = (out[0] if isinstance(out, tuple) else out) + scale * kept["x"] @ a.T @ b.T
        return (y, *out[1:]) if isinstance(out, tuple) else y

    layers[first].register_forward_pre_hook(before, with_kwargs=True)
    layers[first + span - 1].register_forward_hook(after, with_kwargs=True)


def blocks():
    r, alpha = 3, 2
    for name, (base, path, share, spans) in BLOCKS.items():
        model_dir, out = os.path.join(HERE, base), os.path.join(HERE, "blocks", name)
        os.makedirs(out, exist_ok=True)
        m = load(model_dir)
        hidden = m.config.hidden_size
        g = torch.Generator().manual_seed(2)
        rand = lambda *shape: torch.randn(shape, generator=g) / 4
        common, tensors, modules = rand(r, hidden), {}, {}
        for first, span in spans.items():
            a, b, block = (common if share else rand(r, hidden)), rand(hidden, r), f"{path}.{first}"
            tensors["base_model.shared.lor2c_A" if share else f"base_model.model.{block}.lor2c_A"] = a
            tensors[f"base_model.model.{block}.lor2c_B"] = b
            modules[block] = [hidden, hidden]
            connect(m.get_submodule(path), first, span, alpha / r, a, b)
        config = dict(peft_type="SHARELOR2C" if share else "LOR2C", lsrsurgeon_format=1, base_model_name_or_path=base, rank=str(r),
                      terms=max(spans.values()), alpha=alpha, scaling="lora", init="zero", target_modules=list(modules), modules=modules)
        with open(os.path.join(out, "adapter_config.json"), "w") as f:
            json.dump(config, f, indent=1)
        save_file(tensors, os.path.join(out, "adapter_model.safetensors"), metadata={"format": "pt"})
        write_logits(m, model_dir, out)


def check(path, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # transformers speaks of its own future, whatever the adapter.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        m = PeftModel.from_pretrained(load(path), adapter).eval()
        write_logits(m, path, adapter)


if __name__ == "__main__":
    if sys.argv[1:] == ["goldens"]:
        goldens()
        blocks()
    elif len(sys.argv) > 3 and sys.argv[1] == "logits":
        for pair in zip(sys.argv[2::2], sys.argv[3::2]):
            check(*pair)
    else:
        sys.exit(__doc__)
