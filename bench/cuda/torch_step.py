#!/usr/bin/env python3
"""Times optimizer steps of PyTorch with PEFT's LoRA on the shapes of BenchmarkStep.

Weights are random, lengths as in engine/cuda's benchmark: 32 to 74 tokens for an encoder, 1024 for a decoder.
Batches are padded to their longest sequence; tokens per second count real tokens. Prints one line of JSON.
"""
import argparse, json, time
import torch
from peft import LoraConfig, get_peft_model
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, RobertaConfig,
                          RobertaForSequenceClassification)

ap = argparse.ArgumentParser()
ap.add_argument("--model", default="roberta-base/256", help="name/sequences")
ap.add_argument("--mode", choices=["eager", "compile"], default="eager")
ap.add_argument("--steps", type=int, default=20)
ap.add_argument("--device", default="cuda")
ap.add_argument("--tiny", action="store_true", help="a model of two narrow layers and up to four sequences, to try this script")
a = ap.parse_args()
name, n = a.model.split("/")
n = min(int(n), 4) if a.tiny else int(n)
torch.manual_seed(0)
tiny = dict(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128) if a.tiny else {}
if name == "roberta-base":
    model = RobertaForSequenceClassification(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, **tiny))
    targets, lens = ["query", "value"], [32 + (i * 29) % 43 for i in range(n)]
elif name == "gpt2-size":
    model = GPT2LMHeadModel(GPT2Config(**(dict(n_layer=2, n_embd=64, n_head=4) if a.tiny else {})))
    targets, lens = ["c_attn"], [1024] * n
elif name == "llama-1b":
    sizes = dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=128256, num_key_value_heads=4 if a.tiny else 8, tie_word_embeddings=True, **(tiny or sizes)))
    targets, lens = ["q_proj", "v_proj"], [1024] * n
else:
    raise SystemExit(f"unknown model {name}")
if a.tiny:
    lens = [min(l, 64) for l in lens]
model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1 if name == "roberta-base" else 0.0, target_modules=targets))
model.to(a.device).train()
step_model = torch.compile(model) if a.mode == "compile" else model
ids = torch.randint(5, 50000, (n, max(lens)), device=a.device)
mask = (torch.arange(max(lens))[None] < torch.tensor(lens)[:, None]).long().to(a.device)
labels = torch.randint(0, 2, (n,), device=a.device) if name == "roberta-base" else ids.masked_fill(mask == 0, -100)
params = [p for p in model.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=1e-4, fused=a.device == "cuda")


def step():
    with torch.autocast(a.device, dtype=torch.bfloat16):
        loss = step_model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    opt.step()
    opt.zero_grad(set_to_none=True)
    return loss


def wait():
    if a.device == "cuda":
        torch.cuda.synchronize()


for _ in range(3):
    step()
wait()
start = time.perf_counter()
for _ in range(a.steps):
    loss = step()
wait()
each = (time.perf_counter() - start) / a.steps
peak = torch.cuda.max_memory_allocated() / 2**20 if a.device == "cuda" else None
print(json.dumps({"model": a.model, "device": torch.cuda.get_device_name() if a.device == "cuda" else "cpu", "mode": a.mode, "torch": torch.__version__, "tokens_per_second": sum(lens) / each,
                  "seconds_per_step": each, "peak_mib": peak, "loss": float(loss.detach())}))
