#!/usr/bin/env python3
"""Writes into DIR what the file cases need: base/ (a Llama-shaped 1.1B bf16 checkpoint in shards, random weights, 2.2 GB),
adapter/ (a PEFT LoRA r=16 on all its linear layers), and base2/ + tuned2/ (2 layers of it, plain and with the delta folded in)."""
import glob, json, os, re, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
root = sys.argv[1]; base, ad = f"{root}/base", f"{root}/adapter"
torch.manual_seed(0); torch.set_default_dtype(torch.bfloat16)
m = LlamaForCausalLM(LlamaConfig(vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
    num_key_value_heads=4, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=False, dtype="bfloat16"))
m.save_pretrained(base, max_shard_size="1GB")
p = get_peft_model(m, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, base_model_name_or_path=base,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
for n, q in p.named_parameters():
    if "lora_B" in n: torch.nn.init.normal_(q, std=0.01)
p.save_pretrained(ad)
delta = {}
with safe_open(f"{ad}/adapter_model.safetensors", "pt") as g:
    for k in g.keys():
        if k.endswith("lora_A.weight"): delta[k[len("base_model.model."):-len(".lora_A.weight")] + ".weight"] = 2 * g.get_tensor(k.replace("lora_A", "lora_B")).float() @ g.get_tensor(k).float()
for name, tuned in (("base2", False), ("tuned2", True)):
    out = {}
    for f in sorted(glob.glob(base + "/*.safetensors")):
        with safe_open(f, "pt") as g:
            for k in g.keys():
                hit = re.match(r"model\.layers\.(\d+)\.", k)
                if hit and int(hit[1]) >= 2: continue
                w = g.get_tensor(k); out[k] = (w.float() + delta[k]).to(w.dtype) if tuned and k in delta else w
    os.makedirs(f"{root}/{name}", exist_ok=True); save_file(out, f"{root}/{name}/model.safetensors", metadata={"format": "pt"})
    c = json.load(open(base + "/config.json")); c["num_hidden_layers"] = 2; json.dump(c, open(f"{root}/{name}/config.json", "w"))
