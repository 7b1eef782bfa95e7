"""Writes golden.json: what Hugging Face's Python packages make of lines.json.gz.

    python gen_golden.py TESTDATA SHARED_DATA OUT [sample]

TESTDATA is the repository's testdata directory, SHARED_DATA the shared data
directory, OUT the file to write. For each tokenizer and each mode below,
golden.json holds one hash per 100 lines, over every field of every encoding
(see `feed`), so that all 10,000 lines are compared without keeping them. With
"sample", nine in ten of the hashes are left out, as "-".

Modes: single, one text; plain, without special tokens; pair, line i with
another line; cut, singles and pairs truncated in the ways of CUTS; pad, batches
of 100 cut to 24 tokens and padded in the ways of PADS; decode, the ids of single
turned back into text, with and without special tokens.
"""

import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
from array import array
from itertools import chain
from pathlib import Path

os.environ["RUST_BACKTRACE"] = "0"  # some cuts make the crate panic, a thousand times
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # noqa: E402
import transformers  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import (  # noqa: E402
    BertTokenizerFast,
    GPT2TokenizerFast,
    Qwen2TokenizerFast,
    RobertaTokenizerFast,
)

HERE = Path(__file__).parent
assert sys.byteorder == "little" and array("i").itemsize == 4  # for `ints`
BLOCK = 100
HASH_DIGITS = 12

# max length, strategy, stride, direction; one per block in turn
CUTS = [
    (16, "longest_first", 0, "right"),
    (32, "longest_first", 5, "right"),
    (24, "only_first", 0, "right"),
    (24, "only_second", 4, "right"),
    (16, "longest_first", 0, "left"),
    (20, "only_first", 3, "left"),
    (64, "only_second", 16, "left"),
    (8, "longest_first", 3, "right"),
    (4, "longest_first", 0, "right"),
    (12, "longest_first", 2, "left"),
]

# direction, multiple, length (None: the longest of the batch); one per block in turn
PADS = [("right", None, None), ("left", 8, None), ("right", 16, 40), ("left", None, 20)]
PAD_ID, PAD_TYPE_ID, PAD_CUT, PAD_STRIDE = 3, 1, 24, 6


def partner(i: int, n: int) -> int:
    return (7919 * i + 1) % n


def ints(values) -> bytes:
    return array("i", values).tobytes()


def feed_piece(h, e) -> None:
    h.update(ints([len(e.ids)]))
    for field in (e.ids, e.type_ids, e.special_tokens_mask, e.attention_mask):
        h.update(array("i", field).tobytes())
    for field in (e.sequence_ids, e.word_ids):
        h.update(array("i", [-1 if v is None else v for v in field]).tobytes())
    h.update(array("i", chain.from_iterable(e.offsets)).tobytes())


def feed(h, e) -> None:
    """All fields as little-endian int32, then the overflowing pieces."""
    feed_piece(h, e)
    h.update(ints([len(e.overflowing)]))
    for piece in e.overflowing:
        feed_piece(h, piece)


def encode(h, tok: Tokenizer, *texts: str, **kw) -> None:
    try:
        feed(h, tok.encode(*texts, **kw))
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic of the Rust code is not an Exception
        h.update(ints([-1]))


def feed_text(h, s: str) -> None:
    raw = s.encode("utf-8")
    h.update(ints([len(raw)]) + raw)


def run(tok: Tokenizer, lines: list[str], mode: str, block: int, h) -> None:
    tok.no_padding()
    tok.no_truncation()
    if mode == "cut":
        length, strategy, stride, direction = CUTS[block % len(CUTS)]
        tok.enable_truncation(length, strategy=strategy, stride=stride, direction=direction)
    if mode == "pad":
        direction, multiple, length = PADS[block % len(PADS)]
        tok.enable_truncation(PAD_CUT, stride=PAD_STRIDE)
        tok.enable_padding(direction=direction, pad_id=PAD_ID, pad_type_id=PAD_TYPE_ID,
                           pad_to_multiple_of=multiple, length=length)
        for e in tok.encode_batch(lines[block * BLOCK : (block + 1) * BLOCK]):
            feed(h, e)
        return
    for i in range(block * BLOCK, (block + 1) * BLOCK):
        other = lines[partner(i, len(lines))]
        if mode == "single" or (mode == "cut" and i % 3 == 0):
            encode(h, tok, lines[i])
        elif mode == "plain":
            encode(h, tok, lines[i], add_special_tokens=False)
        elif mode in ("pair", "cut"):
            encode(h, tok, lines[i], other)
        else:
            ids = tok.encode(lines[i]).ids
            feed_text(h, tok.decode(ids, skip_special_tokens=True))
            feed_text(h, tok.decode(ids, skip_special_tokens=False))


def hashes(tok: Tokenizer, lines: list[str], sample: bool) -> dict[str, str]:
    out = {}
    for mode in ("single", "plain", "pair", "cut", "pad", "decode"):
        digests = []
        for block in range(len(lines) // BLOCK):
            if sample and block % 10 != block // 10 % 10:
                digests.append("-")
                continue
            h = hashlib.sha256()
            run(tok, lines, mode, block, h)
            digests.append(h.hexdigest()[:HASH_DIGITS])
        out[mode] = " ".join(digests)
    return out


def load(cls, folder: Path, *names: str) -> Tokenizer:
    """Builds from a copy of the folder that has only the files named, or all."""
    with tempfile.TemporaryDirectory() as tmp:
        for path in folder.iterdir():
            if path.is_file() and (not names or path.name in names):
                shutil.copy(path, tmp)
        return cls.from_pretrained(tmp).backend_tokenizer


def main() -> None:
    testdata, shared, out = (Path(p) for p in sys.argv[1:4])
    small, big = HERE / "small", shared / "tokenizers"
    kinds = {
        "small/bert-uncased": lambda: load(BertTokenizerFast, small / "bert-uncased"),
        "small/bert-cased": lambda: load(BertTokenizerFast, small / "bert-cased"),
        "small/gpt2": lambda: load(GPT2TokenizerFast, small / "gpt2"),
        "small/roberta": lambda: load(RobertaTokenizerFast, small / "roberta"),
        "small/opt": lambda: load(GPT2TokenizerFast, small / "opt"),
        "small/qwen2": lambda: load(Qwen2TokenizerFast, small / "qwen2"),
        "stories260k": lambda: Tokenizer.from_file(str(testdata / "stories260k" / "tokenizer.json")),
        "bert-base-uncased": lambda: load(BertTokenizerFast, big / "bert-base-uncased"),
        "all-minilm": lambda: Tokenizer.from_file(str(big / "all-minilm" / "tokenizer.json")),
        "gpt2": lambda: Tokenizer.from_file(str(big / "gpt2" / "tokenizer.json")),
        "gpt2-files": lambda: load(GPT2TokenizerFast, big / "gpt2", "vocab.json", "merges.txt"),
        "phi-3-mini-llama-style": lambda: Tokenizer.from_file(str(big / "phi-3-mini-llama-style" / "tokenizer.json")),
        "qwen2.5": lambda: load(Qwen2TokenizerFast, big / "qwen2.5"),
    }
    lines = json.loads(gzip.decompress((HERE / "lines.json.gz").read_bytes()))
    golden = {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__, "hashes": {}}
    for name, make in kinds.items():
        tok = make()
        golden["hashes"][name] = hashes(tok, lines, sys.argv[4:] == ["sample"])
        print(name, tok.get_vocab_size(), flush=True)
    out.write_text(json.dumps(golden, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
