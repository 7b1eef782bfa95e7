#!/usr/bin/env python3
"""Writes into DIR what onnx-merge-cp needs: model/ (an ONNX model with the layers of a Llama in f32 or f16, random weights in
model.onnx.data, GB gigabytes of them) and adapter/ (a PEFT LoRA on query and value, or on all linear layers of its blocks).

    onnx_big.py DIR [--gb 6] [--dtype f32|f16] [--target qv|all] [--rank 16] [--hidden 2048]

The weights are written in pieces, so that it needs little memory. The graph is valid but has no attention: merging is about
its products, MatMul nodes named as torch's exporters name them, whose weights are stored (in, out)."""
import argparse, json, os
import numpy as np
import onnx
from onnx import TensorProto, helper
from safetensors.numpy import save_file

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("dir"); ap.add_argument("--gb", type=float, default=6); ap.add_argument("--dtype", choices=["f32", "f16"], default="f32")
ap.add_argument("--target", choices=["qv", "all"], default="qv"); ap.add_argument("--rank", type=int, default=16); ap.add_argument("--hidden", type=int, default=2048)
a = ap.parse_args()
h = a.hidden; kv, wide, vocab = h // 4, h * 11 // 4, 32000
number, kind = (np.float32, TensorProto.FLOAT) if a.dtype == "f32" else (np.float16, TensorProto.FLOAT16)
width = np.dtype(number).itemsize
LINEAR = {"self_attn.q_proj": (h, h), "self_attn.k_proj": (h, kv), "self_attn.v_proj": (h, kv), "self_attn.o_proj": (h, h),
          "mlp.gate_proj": (h, wide), "mlp.up_proj": (h, wide), "mlp.down_proj": (wide, h)}
outside = 2 * vocab * h * width; layer = sum(i * o for i, o in LINEAR.values()) * width
layers = max(1, round((a.gb * 1e9 - outside) / layer))
rng = np.random.default_rng(0)
block = (rng.standard_normal(4 << 20, dtype=np.float32) * 0.02).astype(number)  # every weight is pieces of it
os.makedirs(f"{a.dir}/model", exist_ok=True); os.makedirs(f"{a.dir}/adapter", exist_ok=True)
data = open(f"{a.dir}/model/model.onnx.data", "wb"); tensors, nodes = [], []


def weight(name, *shape):
    """Appends a tensor to the data file."""
    n, at = int(np.prod(shape)), data.tell()
    for i in range(0, n, len(block) // 2):
        shift = int(rng.integers(len(block) // 2)); data.write(block[shift:][:min(n - i, len(block) // 2)].tobytes())
    t = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for k, v in (("location", "model.onnx.data"), ("offset", at), ("length", n * width)): t.external_data.add(key=k, value=str(v))
    tensors.append(t); return name


def node(op, inputs, output, name="", **attributes):
    nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes)); return output


def linear(module, x, shape):
    path = "/" + module.replace(".", "/").replace("layers/", "layers.")
    return node("MatMul", [x, weight(f"onnx::MatMul_{len(tensors)}", *shape)], f"{path}/MatMul_output_0", f"{path}/MatMul")


x = node("Gather", [weight("model.embed_tokens.weight", vocab, h), "input_ids"], "embedded")
for i in range(layers):
    at = lambda module: f"model.layers.{i}.{module}"
    q, k, v = (linear(at(m), x, LINEAR[m]) for m in list(LINEAR)[:3])
    mean = node("ReduceMean", [node("Mul", [k, v], f"kv{i}")], f"mean{i}", axes=[-1], keepdims=1)
    o = linear(at("self_attn.o_proj"), node("Add", [q, mean], f"attended{i}"), (h, h))
    g, u = (linear(at(m), x, LINEAR[m]) for m in ("mlp.gate_proj", "mlp.up_proj"))
    d = linear(at("mlp.down_proj"), node("Mul", [node("Sigmoid", [g], f"gate{i}"), u], f"gated{i}"), (wide, h))
    x = node("Add", [node("Add", [x, o], f"middle{i}"), d], f"layer{i}")
logits = linear("lm_head", x, (h, vocab)); data.close()
graph = helper.make_graph(nodes, "llama", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
                          [helper.make_tensor_value_info(logits, kind, ["batch", "sequence", vocab])], tensors)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), f"{a.dir}/model/model.onnx")

targets = ["self_attn.q_proj", "self_attn.v_proj"] if a.target == "qv" else list(LINEAR)
lora = {}
for i in range(layers):
    for m in targets:
        inner, outer = LINEAR[m]; p = f"base_model.model.model.layers.{i}.{m}."
        lora[p + "lora_A.weight"] = rng.standard_normal((a.rank, inner), dtype=np.float32) * 0.02
        lora[p + "lora_B.weight"] = rng.standard_normal((outer, a.rank), dtype=np.float32) * 0.01
save_file(lora, f"{a.dir}/adapter/adapter_model.safetensors", metadata={"format": "pt"})
json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": f"{a.dir}/model", "r": a.rank, "lora_alpha": 2 * a.rank,
           "target_modules": [m.split(".")[1] for m in targets], "bias": "none", "fan_in_fan_out": False}, open(f"{a.dir}/adapter/adapter_config.json", "w"))
print(json.dumps({"layers": layers, "bytes": os.path.getsize(f"{a.dir}/model/model.onnx.data"), "adapted": len(lora) // 2}))
