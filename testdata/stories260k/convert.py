"""Writes model.safetensors, config.json and the demonstration texts of this folder.

    python3 convert.py STORIES260K.bin SHAKESPEARE.txt OUT_DIR

STORIES260K.bin is the checkpoint in the version 0 format of llama2.c: seven
int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len; a
negative vocab_size means an output layer of its own), then float32 tensors, one
kind after the other, all layers of a kind together. SHAKESPEARE.txt is
the tiny Shakespeare text (1,115,394 bytes). Standard library only.

Rotary layout: llama2.c rotates the neighbours 2i and 2i+1 of a head, Hugging
Face's Llama the halves i and i + head_dim/2. The rows of q_proj and k_proj are
reordered to match, which leaves every attention score as it was.
"""

import array
import hashlib
import json
import math
import os
import struct
import sys

# sha256 of the inputs that the committed files were made from.
CHECKPOINT = "b0a507e7ad0f626624f17112325e66691f9076d622e1d3274d103d00299f2696"
TEXT = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def read(path, sha256):
    with open(path, "rb") as f:
        data = f.read()
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        sys.exit(f"{path}: sha256 {got}, want {sha256}")
    return data


def halves(rows, heads):
    """Reorders the rows of every head from (0, 1, 2, 3, ...) to (0, 2, ..., 1, 3, ...)."""
    size = len(rows) // heads
    out = []
    for h in range(heads):
        head = rows[h * size : (h + 1) * size]
        out += head[0::2] + head[1::2]
    return out


def convert(data):
    dim, hidden, layers, heads, kv_heads, vocab, seq_len = struct.unpack_from("<7i", data)
    shared, vocab = vocab > 0, abs(vocab)
    head_dim = dim // heads
    kv_dim = kv_heads * head_dim
    floats = array.array("f")
    floats.frombytes(data[28:])
    if sys.byteorder == "big":
        floats.byteswap()
    at = 0

    def take(*shape):
        nonlocal at
        n = math.prod(shape)
        part = floats[at : at + n]
        if len(part) != n:
            sys.exit(f"the checkpoint ends within a tensor of shape {shape}")
        at += n
        return part

    def each(*shape):
        return [take(*shape) for _ in range(layers)]

    def rotate(w, n):
        rows = [w[i : i + dim] for i in range(0, len(w), dim)]
        out = array.array("f")
        for row in halves(rows, n):
            out.extend(row)
        return out

    embed = take(vocab, dim)
    attn_norm = each(dim)
    q, k, v, o = each(dim, dim), each(kv_dim, dim), each(kv_dim, dim), each(dim, dim)
    mlp_norm = each(dim)
    gate, down, up = each(hidden, dim), each(dim, hidden), each(hidden, dim)
    norm = take(dim)
    cos, sin = take(seq_len, head_dim // 2), take(seq_len, head_dim // 2)
    for pos in (0, 1, seq_len - 1):
        for i in range(head_dim // 2):
            angle = pos * 10000.0 ** (-2 * i / head_dim)
            c, s = cos[pos * (head_dim // 2) + i], sin[pos * (head_dim // 2) + i]
            if abs(c - math.cos(angle)) > 1e-4 or abs(s - math.sin(angle)) > 1e-4:
                sys.exit(f"position {pos}: the stored rotation is not that of base 10000")

    tensors = [("model.embed_tokens.weight", (vocab, dim), embed)]
    for i in range(layers):
        p = f"model.layers.{i}."
        tensors += [
            (p + "input_layernorm.weight", (dim,), attn_norm[i]),
            (p + "self_attn.q_proj.weight", (dim, dim), rotate(q[i], heads)),
            (p + "self_attn.k_proj.weight", (kv_dim, dim), rotate(k[i], kv_heads)),
            (p + "self_attn.v_proj.weight", (kv_dim, dim), v[i]),
            (p + "self_attn.o_proj.weight", (dim, dim), o[i]),
            (p + "post_attention_layernorm.weight", (dim,), mlp_norm[i]),
            (p + "mlp.gate_proj.weight", (hidden, dim), gate[i]),
            (p + "mlp.up_proj.weight", (hidden, dim), up[i]),
            (p + "mlp.down_proj.weight", (dim, hidden), down[i]),
        ]
    tensors.append(("model.norm.weight", (dim,), norm))
    if not shared:
        tensors.append(("lm_head.weight", (vocab, dim), take(vocab, dim)))
    if at != len(floats):
        sys.exit(f"{len(floats) - at} floats are left over")

    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": dim,
        "initializer_range": 0.02,
        "intermediate_size": hidden,
        "max_position_embeddings": seq_len,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": shared,
        "torch_dtype": "float32",
        "vocab_size": vocab,
    }
    return tensors, config


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, data in tensors:
        n = 4 * len(data)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors:
            if sys.byteorder == "big":
                data.byteswap()
            f.write(data.tobytes())


def speeches(text, start, size):
    """Whole speeches (separated by empty lines) of about size bytes from start on."""
    begin = text.index(b"\n\n", start) + 2
    end = text.index(b"\n\n", begin + size) + 1
    return text[begin:end]


def main():
    checkpoint, text, out = sys.argv[1:]
    tensors, config = convert(read(checkpoint, CHECKPOINT))
    write_safetensors(os.path.join(out, "model.safetensors"), tensors)
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    plays = read(text, TEXT)
    # Train and held-out parts come from different plays of the collection.
    for name, start, size in (("demo_train.txt", 300_000, 90_000), ("demo_eval.txt", 900_000, 15_000)):
        with open(os.path.join(out, name), "wb") as f:
            f.write(speeches(plays, start, size))


if __name__ == "__main__":
    main()
