"""Makes the goldens of this package with PEFT, on the CPU:

  python gen_peft.py goldens        targets.json and peft/ (adapters that PEFT saved)
  python gen_peft.py check DIR ...  loads each adapter DIR with PEFT, fails on any
                                    warning, writes DIR/deltas.safetensors

The tiny models come from transformers' configuration classes with a seed; no
weights are fetched. deltas.safetensors holds get_delta_weight of every module,
as the base stores W, and the versions in its metadata.
"""
import json
import os
import sys
import warnings

import peft
import torch
import transformers
from peft import LoKrConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
VERSIONS = {m.__name__: m.__version__ for m in (peft, torch, transformers)}


def roberta(layers=3):
    torch.manual_seed(0)
    c = transformers.RobertaConfig(hidden_size=24, intermediate_size=36, num_hidden_layers=layers, num_attention_heads=4,
                                   vocab_size=40, max_position_embeddings=20, type_vocab_size=1, num_labels=2)
    return transformers.RobertaForSequenceClassification(c)


def gpt2():
    torch.manual_seed(0)
    c = transformers.GPT2Config(n_embd=24, n_layer=2, n_head=4, vocab_size=40, n_positions=20)
    return transformers.GPT2LMHeadModel(c)


MODELS = {"roberta": roberta, "gpt2": gpt2}


def linear(m):
    if isinstance(m, torch.nn.Linear):
        return m.in_features, m.out_features, True
    if isinstance(m, transformers.pytorch_utils.Conv1D):
        return m.weight.shape[0], m.weight.shape[1], False
    return None


def sites(model):
    return [[n, *linear(m)] for n, m in model.named_modules() if linear(m)]


def adapted(model):
    """Module path -> layer with an adapter, paths as in the base model."""
    out = {}
    for n, m in model.named_modules():
        if hasattr(m, "get_delta_weight") and hasattr(m, "scaling") and "default" in m.scaling:
            out[n.removeprefix("base_model.model.")] = m
    return out


CASES = [
    ("roberta", dict(target_modules=["query", "value"])),
    ("roberta", dict(target_modules=["query"], layers_to_transform=[0, 2])),
    ("roberta", dict(target_modules=["query"], layers_to_transform=1, layers_pattern="layer")),
    ("roberta", dict(target_modules=["dense"])),
    ("roberta", dict(target_modules=["dense"], task_type="SEQ_CLS")),
    ("roberta", dict(target_modules=["dense"], modules_to_save=["classifier"])),
    ("roberta", dict(target_modules=["output.dense", "attention.self.key"])),
    ("roberta", dict(target_modules=r".*layer\.[12]\..*(query|key)")),
    ("roberta", dict(target_modules=r"encoder.*query")),
    ("roberta", dict(target_modules="all-linear", task_type="SEQ_CLS")),
    ("roberta", dict(target_modules=["query", "key"], exclude_modules=["layer.0.attention.self.query"])),
    ("roberta", dict(target_modules=["query", "key"], exclude_modules=r".*\.1\..*")),
    ("roberta", dict(target_modules=["query", "value"], r=6, lora_alpha=12, use_rslora=True,
                     rank_pattern={"layer.1.attention.self.query": 2, "query": 3, r"layer\.[01]\..*value": 4},
                     alpha_pattern={"self.query": 5, "value": 7})),
    ("gpt2", dict(target_modules=["c_attn"], fan_in_fan_out=True)),
    ("gpt2", dict(target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM")),
    ("gpt2", dict(target_modules=["c_proj"], layers_to_transform=[1], fan_in_fan_out=True)),
]


def plain(config):
    return {k: (sorted(v) if isinstance(v, set) else v) for k, v in config.to_dict().items() if k != "runtime_config"}


def targets():
    cases = []
    for name, kw in CASES:
        model = MODELS[name]()
        config = LoraConfig(**{"r": 4, "lora_alpha": 8, **kw})
        wrote = json.loads(json.dumps({**plain(config), **kw, "peft_type": "LORA"}, default=str))
        case = {"model": name, "config": wrote, "matched": None, "error": None}
        try:
            m = get_peft_model(model, config)
            case["matched"] = {n: {"r": l.r["default"], "scaling": l.scaling["default"]} for n, l in adapted(m).items()}
        except ValueError as e:
            case["error"] = str(e).splitlines()[0]
        cases.append(case)
    doc = {"versions": VERSIONS, "sites": {n: sites(f()) for n, f in MODELS.items()}, "cases": cases}
    with open(os.path.join(HERE, "targets.json"), "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")


ADAPTERS = {
    "lora_head": ("roberta", LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"], task_type="SEQ_CLS")),
    "lora_patterns": ("roberta", LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["query", "output.dense"],
                                            rank_pattern={"query": 2}, alpha_pattern={"layer.1.attention.self.query": 5})),
    "lora_conv1d": ("gpt2", LoraConfig(r=2, lora_alpha=3, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "lokr_thin": ("roberta", LoKrConfig(r=2, alpha=6, target_modules=["query", "intermediate.dense"])),
    "lokr_full": ("roberta", LoKrConfig(r=8, alpha=4, decompose_factor=4, target_modules=["query", "intermediate.dense"])),
    "lokr_both": ("roberta", LoKrConfig(r=1, alpha=2, decompose_both=True, target_modules=["query"])),
}


def deltas(m):
    return {n: l.get_delta_weight("default").detach().contiguous() for n, l in adapted(m).items()}


def saved():
    for name, (base, config) in ADAPTERS.items():
        m = get_peft_model(MODELS[base](), config)
        g = torch.Generator().manual_seed(1)
        for n, p in m.named_parameters():
            if p.requires_grad:
                p.data = torch.randn(p.shape, generator=g) / 4
        out = os.path.join(HERE, "peft", name)
        m.save_pretrained(out)
        os.remove(os.path.join(out, "README.md"))
        save_file(deltas(m), os.path.join(out, "deltas.safetensors"), metadata=VERSIONS)


def check(dirs):
    """The base is told by the modules: GPT-2's names, or RoBERTa's."""
    for d in dirs:
        config = json.load(open(os.path.join(d, "adapter_config.json")))
        base = gpt2() if any("c_attn" in t for t in config["target_modules"]) else roberta()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # transformers speaks of its own future, whatever the adapter.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            m = PeftModel.from_pretrained(base, d)
        save_file(deltas(m), os.path.join(d, "deltas.safetensors"), metadata=VERSIONS)
        print(f"{d}: {len(deltas(m))} modules")


if __name__ == "__main__":
    if sys.argv[1:] == ["goldens"]:
        targets()
        saved()
    elif len(sys.argv) > 2 and sys.argv[1] == "check":
        check(sys.argv[2:])
    else:
        sys.exit(__doc__)
