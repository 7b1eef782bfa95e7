"""Makes tiny random checkpoints of every family and what PyTorch computes with them.

    HF_HUB_OFFLINE=1 python gen_models.py OUT_DIR

For each case OUT_DIR/<case>/ receives config.json and model.safetensors, and
golden.safetensors with a batch, adapter tensors, hidden states, logits, the
loss and the gradient of every adapter and head tensor, with and without dropout.

All is computed in float64 by transformers and autograd; adapters are forward
hooks written here, from the formulas. A sequence is run at a time, without
padding. Dropout masks are drawn by a Philox generator written here, from the
rule of which element reads which bits, so that they equal the program's.

golden.safetensors records the versions of the libraries in its metadata. The files
are the same, byte for byte, in every run.
"""

import json
import os
import sys

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file

LENGTHS = [5, 1, 7, 3]
SEED, STEP = 0x1234567890ABCDEF, 5
PREFIX = "base_model.model."


# ---- dropout masks -------------------------------------------------------------


def philox(counter, key):
    """Philox 4x32-7 (Salmon et al., SC 2011) on arrays of counters (n, 4)."""
    c = [counter[:, i].astype(np.uint64) for i in range(4)]
    k0, k1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    low, w = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(7):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> w) ^ c[1] ^ k0, p1 & low, (p0 >> w) ^ c[3] ^ k1, p0 & low]
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack(c, 1)


def keep(index, site, p):
    """What dropout p at a site multiplies the elements of an index array by."""
    flat = index.reshape(-1).astype(np.uint64)
    block, e = flat // np.uint64(8), (flat % np.uint64(8)).astype(int)
    counter = np.stack(
        [block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), np.full_like(block, site), np.full_like(block, STEP)], 1
    )
    words = philox(counter, SEED)[np.arange(len(flat)), e // 2].astype(int)
    threshold = min(round(float(np.float32(p)) * 2**16), 2**16 - 1)
    kept = words >> (e % 2 * 16) & 0xFFFF >= threshold
    return torch.from_numpy(kept.reshape(index.shape)).double() / (1 - threshold / 2**16)


class Masks:
    """Replaces torch.nn.functional.dropout; counts the sites within a sequence."""

    def __init__(self, rows_of):
        self.rows_of = rows_of  # (site, tokens) -> row of each token in the program

    def start(self):
        self.site = 0

    def __call__(self, x, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return x
        self.site += 1
        if x.dim() == 4:  # attention probabilities (1, heads, queries, keys)
            _, heads, tq, tk = x.shape
            row = self.rows_of(self.site, tq)
            index = (row[:, None] * heads + np.arange(heads)[None, :])[:, :, None] * 2**20 + np.arange(tk)
            mask = keep(index.transpose(1, 0, 2)[None], self.site, p)
        else:
            y = x.reshape(-1, x.shape[-1])
            row = self.rows_of(self.site, len(y))
            mask = keep(row[:, None] * y.shape[1] + np.arange(y.shape[1]), self.site, p).reshape(x.shape)
        return x * mask


# ---- adapters --------------------------------------------------------------------


def kron_sum(f1, f2):
    return sum(torch.kron(p, q) for p, q in zip(f1, f2))


def split(n):
    """a1 >= a2 of the least sum with a1*a2 >= n, without padding where that sum is within 1.25 times the least."""
    exact = [(a + n // a, a, n // a) for a in range(1, n + 1) if n % a == 0 and a * a >= n]
    padded = [(a + -(-n // a), a * -(-n // a), a, -(-n // a)) for a in range(1, n + 1) if a >= -(-n // a)]
    if min(exact)[0] <= 1.25 * min(padded)[0]:
        return min(exact)[1:]
    return min(padded)[2:]


def lsr(gen, fan_in, fan_out, r1, r2, s, alpha, spread):
    (a1, a2), (b1, b2) = split(fan_in), split(fan_out)
    shapes = {"lsr_A1": (s, a1, r1), "lsr_A2": (s, a2, r2), "lsr_B1": (s, r1, b1), "lsr_B2": (s, r2, b2)}
    p = {k: torch.randn(v, generator=gen).mul(spread).double().requires_grad_() for k, v in shapes.items()}
    meta = {"method": "lsr", "r1": r1, "r2": r2, "terms": s, "alpha": alpha}

    def delta(x):
        a = kron_sum(p["lsr_A1"], p["lsr_A2"])[:fan_in]
        b = kron_sum(p["lsr_B1"], p["lsr_B2"])[:, :fan_out]
        return alpha / (r1 * r2) * (x @ a @ b)

    return p, meta, delta


def lora(gen, fan_in, fan_out, r, alpha, spread):
    p = {
        "lora_A.weight": torch.randn((r, fan_in), generator=gen).mul(spread).double().requires_grad_(),
        "lora_B.weight": torch.randn((fan_out, r), generator=gen).mul(spread).double().requires_grad_(),
    }
    meta = {"method": "lora", "r1": r, "r2": 1, "terms": 0, "alpha": alpha}

    def delta(x):
        return alpha / r * (x @ p["lora_A.weight"].T @ p["lora_B.weight"].T)

    return p, meta, delta


def attach(model, modules, gen, spread=0.3):
    """Puts adapters on modules; returns parameters by file name and settings by module."""
    params, metas = {}, {}
    for n, (name, module) in enumerate(modules):
        if isinstance(module, transformers.pytorch_utils.Conv1D):
            fan_in, fan_out = module.weight.shape
        else:
            fan_out, fan_in = module.weight.shape
        if n % 2 == 0:
            p, meta, delta = lsr(gen, fan_in, fan_out, 2, 2, 3, 6.0, spread)
        else:
            p, meta, delta = lora(gen, fan_in, fan_out, 3, 4.0, spread)
        metas[name] = meta
        params.update({f"{PREFIX}{name}.{k}": v for k, v in p.items()})
        module.register_forward_hook(lambda m, args, out, delta=delta: out + delta(args[0]))
    return params, metas


# ---- cases ------------------------------------------------------------------------

C = transformers
SMALL = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, vocab_size=50)
ENCODER = dict(SMALL, max_position_embeddings=16, initializer_range=0.2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2)
DECODER = dict(SMALL, max_position_embeddings=32, initializer_range=0.2, num_key_value_heads=2, pad_token_id=None)

CASES = {
    "bert": dict(
        config=C.BertConfig(**ENCODER, type_vocab_size=2, num_labels=3),
        model=C.BertForSequenceClassification, task="classification",
        targets=["query", "value", "intermediate.dense", "output.dense", "pooler.dense"],
    ),
    # A sentence encoder: bare names, the LayerNorm names of early checkpoints, no pooler and no head.
    "bert-bare": dict(
        config=C.BertConfig(**ENCODER, type_vocab_size=2, num_labels=2, hidden_act="relu"),
        model=C.BertForSequenceClassification, task="classification", pool="mean",
        targets=["key", "attention.output.dense"],
        rename=lambda n: n.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        drop=lambda n: n.startswith("classifier.") or "pooler" in n,
    ),
    "roberta": dict(
        config=C.RobertaConfig(**ENCODER, type_vocab_size=1, num_labels=1, pad_token_id=1, layer_norm_eps=1e-5, classifier_dropout=0.3),
        model=C.RobertaForSequenceClassification, task="regression",
        targets=["query", "intermediate.dense"],
    ),
    "llama": dict(
        config=C.LlamaConfig(**DECODER, tie_word_embeddings=False, rope_theta=10000.0, rope_scaling=dict(
            rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)),
        model=C.LlamaForCausalLM, task="lm", dtype=torch.bfloat16,
        targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    ),
    "mistral": dict(
        config=C.MistralConfig(**DECODER, tie_word_embeddings=True, sliding_window=3, head_dim=8, attention_dropout=0.2,
            rope_theta=1000.0, rope_scaling=dict(rope_type="linear", factor=2.0)),
        model=C.MistralForCausalLM, task="lm", dtype=torch.float16,
        targets=["q_proj", "v_proj", "lm_head"],
    ),
    "qwen2": dict(
        config=C.Qwen2Config(**DECODER, tie_word_embeddings=False, num_labels=3, use_sliding_window=True, sliding_window=4, max_window_layers=1,
            rope_theta=1000.0, rope_scaling=dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=16)),
        model=C.Qwen2ForSequenceClassification, task="classification",
        targets=["q_proj", "k_proj", "down_proj"],
    ),
    "qwen3": dict(
        config=C.Qwen3Config(**DECODER, tie_word_embeddings=False, head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=1, attention_bias=True,
            attention_dropout=0.1, rope_theta=1000.0),
        model=C.Qwen3ForCausalLM, task="lm",
        targets=["q_proj", "k_proj", "o_proj", "up_proj"],
    ),
    "gpt2": dict(
        config=C.GPT2Config(n_embd=24, n_layer=2, n_head=4, n_positions=16, n_inner=40, vocab_size=50, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
            scale_attn_by_inverse_layer_idx=True, embd_pdrop=0.1, resid_pdrop=0.2, attn_pdrop=0.1),
        model=C.GPT2LMHeadModel, task="lm",
        targets=["c_attn", "c_fc", "mlp.c_proj"],
    ),
    "gpt2-cls": dict(
        config=C.GPT2Config(n_embd=24, n_layer=2, n_head=2, n_positions=16, vocab_size=50, initializer_range=0.2, num_labels=4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
            resid_pdrop=0.0, embd_pdrop=0.0),
        model=C.GPT2ForSequenceClassification, task="classification",
        targets=["c_attn", "attn.c_proj"],
    ),
}


def forward(case, model, seqs, types, masks):
    """Hidden states of all tokens (T, h) and logits, sequence by sequence."""
    hidden, logits = [], []
    for s, ids in enumerate(seqs):
        if masks:
            masks.start()
            masks.sequence = s
        args = dict(input_ids=torch.tensor([ids]), output_hidden_states=True)
        if types is not None:
            args["token_type_ids"] = torch.tensor([types[s]])
        if case.get("pool") == "mean":
            # The head of a model without pooler: dropout and classifier on the mean.
            h = model.bert(**args).last_hidden_state
            y = model.classifier(model.dropout(h.mean(1)))
        else:
            out = model(**args)
            h, y = out.hidden_states[-1], out.logits
        hidden.append(h[0])
        logits.append(y[0] if case["task"] == "lm" else y)
    return torch.cat(hidden), torch.cat(logits)


def rows_function(case, masks_box, cu, rows, sites):
    """The program's row of every token at a dropout site.

    Before the last attention a row is a token. From there on only the rows that the
    head reads exist: one per sequence, or those of the loss.
    """
    attention, last = sites

    def rows_of(site, tokens):
        s = masks_box[0].sequence
        token = np.arange(cu[s], cu[s] + tokens)
        if site > last:  # the head
            return np.array([s])
        if site < attention or (case["task"] == "lm" and site == attention) or case.get("pool") == "mean":
            return token
        if case["task"] == "lm":
            return np.array([rows.index(t) if t in rows else 0 for t in token])
        return np.full(tokens, s)

    return rows_of


def run(out, name, case):
    gen = torch.Generator().manual_seed(hash_of(name))
    torch.manual_seed(hash_of(name))
    config = case["config"]
    config._attn_implementation = "eager"
    model = case["model"](config)
    with torch.no_grad():  # norms and biases that do something
        for n, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(torch.randn(p.shape, generator=gen) * 0.2)
    dtype = case.get("dtype", torch.float32)
    with torch.no_grad():  # only the parameters: rotary frequencies stay as they are
        for p in model.parameters():
            p.copy_(p.to(dtype))
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    rename, drop = case.get("rename", lambda n: n), case.get("drop", lambda n: False)
    tied = getattr(config, "tie_word_embeddings", False) and case["task"] == "lm"
    state = {rename(n): t.to(dtype).contiguous() for n, t in model.state_dict().items() if not drop(n) and not (tied and n == "lm_head.weight")}
    save_file(state, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    config.architectures = [case["model"].__name__]
    config.dtype = dtype
    config.save_pretrained(folder)

    model = model.double().eval()
    for p in model.parameters():
        p.requires_grad_(False)
    head = {}
    if case["task"] != "lm":
        prefix = "score" if hasattr(model, "score") else "classifier"
        for n, p in model.named_parameters():
            if n.split(".")[0] == prefix:
                head[PREFIX + n] = p.requires_grad_()
    modules = [(n, m) for n, m in model.named_modules() if any(n == t or n.endswith("." + t) for t in case["targets"])
               and not n.startswith(("classifier", "score"))]
    params, metas = attach(model, modules, gen)
    if "rename" in case:
        params = {PREFIX + rename(n.removeprefix(PREFIX)): p for n, p in params.items()}
        metas = {rename(n): m for n, m in metas.items()}
    trained = {**params, **head}

    cu = np.concatenate([[0], np.cumsum(LENGTHS)])
    seqs = [torch.randint(3, 50, (n,), generator=gen).tolist() for n in LENGTHS]
    types = None
    if config.model_type == "bert":
        types = [[int(i > n // 2) for i in range(n)] for n in LENGTHS]
    tensors = {"ids": torch.tensor(sum(seqs, []), dtype=torch.int32), "cu_seqlens": torch.tensor(cu, dtype=torch.int32)}
    if types:
        tensors["types"] = torch.tensor(sum(types, []), dtype=torch.int32)
    rows = [0, 1, 3, 6, 7, 8, 11, 14]  # tokens with a label, for language models
    if case["task"] == "lm":
        labels = torch.randint(0, 50, (len(rows),), generator=gen)
        tensors["rows"] = torch.tensor(rows, dtype=torch.int32)
        tensors["labels"] = labels.to(torch.int32)
    elif case["task"] == "regression":
        labels = torch.randn((len(LENGTHS), config.num_labels), generator=gen).double()
        tensors["targets"] = labels.float()
    else:
        labels = torch.randint(0, config.num_labels, (len(LENGTHS),), generator=gen)
        tensors["labels"] = labels.to(torch.int32)

    def loss_of(logits):
        if case["task"] == "lm":
            return F.cross_entropy(logits[rows], labels)
        if case["task"] == "regression":
            return F.mse_loss(logits, labels)
        return F.cross_entropy(logits, labels)

    for t, p in trained.items():
        tensors["param." + t] = p.detach().float()
    hidden, logits = forward(case, model, seqs, types, None)
    loss = loss_of(logits)
    loss.backward()
    tensors.update(hidden=hidden.detach().float(), logits=logits.detach().float(), loss=loss.detach().float())
    for t, p in trained.items():
        tensors["grad." + t] = p.grad.float()
        p.grad = None

    # The same step with dropout: sites in the order in which the model calls it.
    model.train()
    box = [None]
    box[0] = Masks(rows_function(case, box, cu, rows, last_layer_sites(config)))
    original, F.dropout = F.dropout, box[0]
    try:
        _, logits = forward(case, model, seqs, types, box[0])
    finally:
        F.dropout = original
    tensors["dropout.sites"] = torch.tensor([box[0].site], dtype=torch.int32)
    if box[0].site:
        loss = loss_of(logits)
        loss.backward()
        tensors["dropout.loss"] = loss.detach().float()
        for t, p in trained.items():
            tensors["dropout.grad." + t] = p.grad.float()
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, "golden.safetensors"),
        metadata=record(task=case["task"], pool=case.get("pool", ""), adapters=metas, seed=SEED, step=STEP),
    )
    print(f"{name}: loss {loss.item():.4f}, {len(metas)} adapters, {box[0].site} dropout sites")


def last_layer_sites(config):
    """The first dropout site of the last layer, its attention's, and the last one of the layers."""
    if config.model_type in ("bert", "roberta"):
        per, before = 3, 1
    elif config.model_type == "gpt2":
        per, before = 1 + 2 * (config.resid_pdrop > 0), int(config.embd_pdrop > 0)
    else:
        per, before = int(config.attention_dropout > 0), 0
    last = before + per * config.num_hidden_layers
    return last - per + 1, last


def hash_of(name):
    return sum((i + 1) * ord(c) for i, c in enumerate(name))


def record(**facts):
    """Metadata under one key, as several are written in an order that changes from run to run."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "safetensors": safetensors.__version__}
    return {"golden": json.dumps({**facts, "versions": versions})}


if __name__ == "__main__":
    for name, case in CASES.items():
        run(sys.argv[1], name, case)
