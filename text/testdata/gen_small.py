"""Trains the small vocabularies in small/, so that the tests need no large one.

    python gen_small.py

They are trained on lines.json.gz with the trainers of tokenizers 0.23.3 and are
only meant to have every kind of file that Load reads: vocab.txt, vocab.json
with merges.txt, and the configuration files beside them.
"""

import gzip
import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent
OUT = HERE / "small"
SIZE = 1000


def lines() -> list[str]:
    return json.loads(gzip.decompress((HERE / "lines.json.gz").read_bytes()))[:4000]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", newline="\n")


def dump(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def word_piece(name: str, config: dict, lower: bool) -> None:
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tok.train_from_iterator(lines(), trainers.WordPieceTrainer(
        vocab_size=SIZE, special_tokens=special, limit_alphabet=300, show_progress=False))
    vocab = sorted(tok.get_vocab().items(), key=lambda kv: kv[1])
    write(OUT / name / "vocab.txt", "".join(token + "\n" for token, _ in vocab))
    if config:
        write(OUT / name / "tokenizer_config.json", dump(config))


def byte_level(name: str, special: list[str], files: dict[str, dict], keep_special: bool = True) -> None:
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(lines(), trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=special if keep_special else [], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    model = json.loads(tok.to_str())["model"]
    write(OUT / name / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    write(OUT / name / "merges.txt", "#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in model["merges"]))
    for file, value in files.items():
        write(OUT / name / file, dump(value))


def token(content: str, **kw: bool) -> dict:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, **flags, **kw}


def main() -> None:
    word_piece("bert-uncased", {}, lower=True)
    word_piece("bert-cased", {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True,
                              "tokenize_chinese_chars": False}, lower=False)
    byte_level("gpt2", ["<|endoftext|>"], {"config.json": {"model_type": "gpt2"}})
    byte_level("roberta", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], {
        "tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True},
        "special_tokens_map.json": {"mask_token": token("<mask>", lstrip=True)},
    })
    byte_level("opt", ["<s>", "<pad>", "</s>"], {
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "</s>",
                                  "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
        "added_tokens.json": {"<extra>": 1001, "<|tool|>": 1000},
        "special_tokens_map.json": {"additional_special_tokens": ["<|tool|>"]},
    })
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    byte_level("qwen2", names, {"tokenizer_config.json": {
        "tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "unk_token": None, "add_prefix_space": False,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "added_tokens_decoder": {
            **{str(SIZE + i): {**token(n), "special": True} for i, n in enumerate(names)},
            str(SIZE + 3): {**token("<tool_call>"), "special": False},
        },
    }}, keep_special=False)


if __name__ == "__main__":
    main()
