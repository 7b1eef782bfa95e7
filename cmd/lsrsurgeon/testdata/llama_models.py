"""llama_models.py OUT TOKENIZERS: small random models whose conversions to GGUF
are compared with llama.cpp, each with a tokenizer from a directory below
TOKENIZERS or from stories260k. Prints the names of the models made, one a line."""
import json
import os
import shutil
import sys

import torch
from transformers import (GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)

out, tokenizers, stories = sys.argv[1:]
torch.manual_seed(0)


def save(name, model, tokenizer, files):
    d = os.path.join(out, name)
    # Vectors other than 1 and 0, so that a norm or a bias left out shows.
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(d)
    for f in files:
        shutil.copy(os.path.join(tokenizer, f), d)
    print(name)


def rope(**kw):
    return {"rope_theta": 10000.0, **kw}


base = dict(vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, initializer_range=0.15, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
files = ["tokenizer.json", "tokenizer_config.json"]
# Biases, heads wider than hidden_size/heads, an output layer of its own.
save("llama-biases", LlamaForCausalLM(LlamaConfig(**base, head_dim=32, attention_bias=True, rope_parameters=rope(rope_type="default"))), stories, files)
save("llama-llama3", LlamaForCausalLM(LlamaConfig(**base, rope_parameters=rope(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32))), stories, files)
save("llama-linear", LlamaForCausalLM(LlamaConfig(**base, rope_parameters=rope(rope_type="linear", factor=4.0))), stories, files)
save("llama-yarn", LlamaForCausalLM(LlamaConfig(**base, rope_parameters=rope(
    rope_type="yarn", factor=4.0, original_max_position_embeddings=64))), stories, files)

qwen = os.path.join(tokenizers, "qwen2.5")
if os.path.isdir(qwen):
    n = len(json.load(open(os.path.join(qwen, "vocab.json"))))
    c = Qwen2Config(vocab_size=n + 128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    max_position_embeddings=256, initializer_range=0.2, tie_word_embeddings=True)
    save("qwen2", Qwen2ForCausalLM(c), qwen, ["vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"])
gpt2 = os.path.join(tokenizers, "gpt2")
if os.path.isdir(gpt2):
    c = GPT2Config(vocab_size=50257, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2)
    save("gpt2", GPT2LMHeadModel(c), gpt2, ["tokenizer.json"])
