#!/usr/bin/env python3
"""Writes into DIR base/, a Llama-shaped bf16 checkpoint of 16.5 GB in shards (hidden_size 4096, 40 layers), and adapter/, a PEFT
LoRA of rank 16 on q_proj and v_proj of all layers. The tensors that the adapter changes hold random numbers; the others are holes in
sparse files, so that it needs 2.8 GB of disk."""
import json, os, struct, sys, numpy as np
root = sys.argv[1]; base, ad = f"{root}/base", f"{root}/adapter"
os.makedirs(base, exist_ok=True); os.makedirs(ad, exist_ok=True)
H, I, V, L, SHARD = 4096, 11008, 32000, 40, 5 << 30
rng = np.random.default_rng(0)
random = ((rng.standard_normal(H * H).astype(np.float32) * 0.02).view(np.uint32) >> 16).astype(np.uint16).tobytes()
tensors = [("model.embed_tokens.weight", (V, H))]
for i in range(L):
    p = f"model.layers.{i}."
    tensors += [(p + f"self_attn.{n}_proj.weight", (H, H)) for n in "qkvo"]
    tensors += [(p + "mlp.gate_proj.weight", (I, H)), (p + "mlp.up_proj.weight", (I, H)), (p + "mlp.down_proj.weight", (H, I))]
    tensors += [(p + "input_layernorm.weight", (H,)), (p + "post_attention_layernorm.weight", (H,))]
tensors += [("model.norm.weight", (H,)), ("lm_head.weight", (V, H))]
shards, size = [[]], 0
for name, shape in tensors:
    n = 2 * int(np.prod(shape))
    if size + n > SHARD: shards.append([]); size = 0
    shards[-1].append((name, shape, n)); size += n
index = {"metadata": {"total_size": sum(n for s in shards for _, _, n in s)}, "weight_map": {}}
for k, s in enumerate(shards):
    file, header, at = f"model-{k + 1:05d}-of-{len(shards):05d}.safetensors", {"__metadata__": {"format": "pt"}}, 0
    for name, shape, n in s:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}; at += n; index["weight_map"][name] = file
    h = json.dumps(header).encode(); h += b" " * (-len(h) % 8)
    with open(f"{base}/{file}", "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h)
        for name, _, n in s:
            if "q_proj" in name or "v_proj" in name: f.seek(8 + len(h) + header[name]["data_offsets"][0]); f.write(random)
        f.truncate(8 + len(h) + at)
json.dump(index, open(f"{base}/model.safetensors.index.json", "w"))
json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": H, "intermediate_size": I, "num_hidden_layers": L, "num_attention_heads": 32,
           "num_key_value_heads": 32, "vocab_size": V, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}, open(f"{base}/config.json", "w"))
factors, at, blob = {}, 0, []
for i in range(L):
    for m in ("q_proj", "v_proj"):
        for f, shape in (("lora_A", (16, H)), ("lora_B", (H, 16))):
            b = (rng.standard_normal(shape) * 0.01).astype(np.float32).tobytes()
            factors[f"base_model.model.model.layers.{i}.self_attn.{m}.{f}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(b)]}; at += len(b); blob.append(b)
h = json.dumps(factors).encode(); h += b" " * (-len(h) % 8)
open(f"{ad}/adapter_model.safetensors", "wb").write(struct.pack("<Q", len(h)) + h + b"".join(blob))
json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"], "bias": "none", "base_model_name_or_path": base}, open(f"{ad}/adapter_config.json", "w"))
