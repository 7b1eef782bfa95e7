"""Turns llama2.c's tok512.bin into tokenizer.json and tokenizer_config.json.

    python convert_tokenizer.py tok512.bin           write the two files beside this script
    python convert_tokenizer.py tok512.bin --check   compare them with llama2.c's own encoding

Only --check needs a package, tokenizers (0.23.3 was used).

tok512.bin holds, little-endian, the length of the longest token (int32) and
per token its score (float32), its length (int32) and its bytes. Ids 0, 1 and 2
are the unknown, begin and end tokens, 3 to 258 the 256 bytes, the rest pieces
of text with a space where SentencePiece writes U+2581. The scores are minus
the rank in which SentencePiece learned the pieces, so that they order the
merges.
"""

import json
import random
import struct
import sys
from pathlib import Path

HERE = Path(__file__).parent
SPACE = "\u2581"
SPECIAL = ["<unk>", "<s>", "</s>"]
FIRST_PIECE = len(SPECIAL) + 256
MODEL_MAX_LENGTH = 512  # seq_len of stories260K


def read_bin(path: Path) -> list[tuple[bytes, float]]:
    data = path.read_bytes()
    tokens, at = [], 4
    while at < len(data):
        score, n = struct.unpack_from("<fi", data, at)
        at += 8
        tokens.append((data[at : at + n], score))
        at += n
    return tokens


def pieces(tokens: list[tuple[bytes, float]]) -> list[str]:
    names = list(SPECIAL)
    for raw, _ in tokens[len(SPECIAL) :]:
        names.append(raw.decode("utf-8").replace(" ", SPACE))
    assert names[3:FIRST_PIECE] == [f"<0x{b:02X}>" for b in range(256)]
    assert len(set(names)) == len(names)
    return names


def merges(names: list[str], scores: list[float]) -> list[list[str]]:
    """Every split of a piece into two pieces, best piece first."""
    known = set(names[FIRST_PIECE:])
    found = []
    for name, score in zip(names[FIRST_PIECE:], scores[FIRST_PIECE:]):
        for i in range(1, len(name)):
            if name[:i] in known and name[i:] in known:
                found.append((-score, [name[:i], name[i:]]))
    return [pair for _, pair in sorted(found, key=lambda f: f[0])]


def special_piece(name: str, type_id: int) -> dict:
    return {"SpecialToken": {"id": name, "type_id": type_id}}


def sequence(name: str, type_id: int) -> dict:
    return {"Sequence": {"id": name, "type_id": type_id}}


def tokenizer_json(names: list[str], scores: list[float]) -> dict:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i, name in enumerate(SPECIAL)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special_piece("<s>", 0), sequence("A", 0)],
            "pair": [special_piece("<s>", 0), sequence("A", 0), special_piece("<s>", 1), sequence("B", 1)],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": merges(names, scores),
        },
    }


CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": True,
    "model_max_length": MODEL_MAX_LENGTH,
    "pad_token": None,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "<unk>",
}


def write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8")


def reference_encode(text: str, ids: dict[bytes, int], scores: list[float]) -> list[int]:
    """The rule of llama2.c: the begin token, a space before a text that is not
    empty, characters or their bytes, and then again and again the merge whose
    result has the highest score, the leftmost of equals."""
    out = [1]
    if text:
        out.append(ids[b" "])
    for ch in text:
        raw = ch.encode("utf-8")
        out += [ids[raw]] if raw in ids else [b + 3 for b in raw]
    raws = {i: raw for raw, i in ids.items()}
    while True:
        best = None
        for i in range(len(out) - 1):
            merged = ids.get(raws[out[i]] + raws[out[i + 1]])
            if merged is not None and (best is None or scores[merged] > best[0]):
                best = (scores[merged], i, merged)
        if best is None:
            return out
        out[best[1] : best[1] + 2] = [best[2]]


def check_texts() -> list[str]:
    rng = random.Random(7)
    who = ["Lily", "Tom", "a little girl named Sue", "the big dog", "Ben's mom", "Zoë", "a tiny bird"]
    did = ["went to the park", "saw a shiny red ball", "wanted to play", "was very sad", "said, \"Let's go!\"",
           "found 12 cookies", "couldn’t find the key", "ran—fast—home", "ate $5 worth of jelly", "smiled"]
    link = [". ", " and ", "! Then ", ", but ", ".\n", "?\n\n", ".  ", "… "]
    texts = ["", " ", "  two spaces", "\n", "Once upon a time", "日本語 🙂 naïve café", "tab\there", "~`|\\<>{}[]", "x" * 80]
    for _ in range(400):
        texts.append("".join(rng.choice(who) + " " + rng.choice(did) + rng.choice(link) for _ in range(rng.randint(1, 4))))
    for name in ("demo_train.txt", "demo_eval.txt"):
        path = HERE / name
        if path.exists():
            texts += path.read_text("utf-8").splitlines()
    return texts


def check(tokens: list[tuple[bytes, float]]) -> None:
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    ids = {raw: i for i, (raw, _) in enumerate(tokens)}
    scores = [score for _, score in tokens]
    texts = check_texts()
    wrong = back = 0
    for text in texts:
        got, want = tok.encode(text).ids, reference_encode(text, ids, scores)
        if got != want:
            wrong += 1
            print(f"{text!r}\n  tokenizer.json {got}\n  llama2.c       {want}")
        if tok.decode(got) != text:
            back += 1
            print(f"{text!r} comes back as {tok.decode(got)!r}")
    print(f"{len(texts)} texts, {wrong} encoded differently, {back} not decoded to themselves")
    sys.exit(1 if wrong or back else 0)


def main() -> None:
    tokens = read_bin(Path(sys.argv[1]))
    if sys.argv[2:] == ["--check"]:
        check(tokens)
        return
    names, scores = pieces(tokens), [score for _, score in tokens]
    write(HERE / "tokenizer.json", tokenizer_json(names, scores))
    write(HERE / "tokenizer_config.json", CONFIG)


if __name__ == "__main__":
    main()
