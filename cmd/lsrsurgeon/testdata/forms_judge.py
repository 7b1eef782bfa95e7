"""forms_judge.py MODEL JOBS: what mlx-lm and LyCORIS make of adapters. JOBS is a
list of {"form": "mlx" | "kohya", "adapter", "make", "ids"}: the adapter is loaded on
MODEL, or with "make" first made by the package itself, with random values, and saved
there (for kohya "make" is LyCORIS's algorithm). The logits go to ADAPTER.logits as
float32."""
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

model_path, jobs = sys.argv[1:]


def mlx(job):
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(Path(model_path))
    if job["make"]:
        parameters = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}
        model.freeze()
        linear_to_lora_layers(model, 3, parameters)
        mx.random.seed(0)
        model.update(tree_map(lambda x: mx.random.normal(x.shape) * 0.1, model.trainable_parameters()))
        os.makedirs(job["adapter"])
        mx.save_safetensors(job["adapter"] + "/adapters.safetensors", dict(tree_flatten(model.trainable_parameters())))
        with open(job["adapter"] + "/adapter_config.json", "w") as f:
            json.dump({"fine_tune_type": "lora", "num_layers": 3, "lora_parameters": parameters}, f)
    else:
        model = load_adapters(model, job["adapter"])
    model.eval()
    return np.array(model(mx.array([job["ids"]]))[0])


def kohya(job):
    from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    if job["make"]:
        LycorisNetwork.apply_preset({"target_module": ["LlamaAttention"]})
        net = create_lycoris(model, 1.0, linear_dim=4, linear_alpha=2.0, algo=job["make"], factor=4)
        net.apply_to()
        torch.manual_seed(0)
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn_like(p) * 0.1)
        net.save_weights(job["adapter"], torch.float32, {})
    else:
        net, _ = create_lycoris_from_weights(1.0, job["adapter"], model)
        net.apply_to()
    return model(torch.tensor([job["ids"]])).logits[0].detach().numpy()


for job in json.load(open(jobs)):
    np.ascontiguousarray(globals()[job["form"]](job), dtype=np.float32).tofile(job["adapter"] + ".logits")
