"""Writes lines.json.gz: the 10,000 texts that the tokenizers are compared on.

    python gen_lines.py SHARED_DATA

SHARED_DATA is the project's shared data directory. The result depends only on
the files named below and on the seed. Sources of the natural texts: the works
of Shakespeare (public domain), a calibration text from mistral.rs (MIT),
WikiSQL questions from mlx-examples (BSD-3-Clause, MIT), and a Rust file of
Microsoft's Tokenizer (MIT). The rest is made here.
"""

import gzip
import json
import random
import sys
from pathlib import Path

SEED = 20240611
COUNT = 10_000
LONGEST = 240  # characters of a natural line

SENTENCES = [
    "Der schnelle braune Fuchs springt über den faulen Hund – ganz schön weit!",
    "Voix ambiguë d’un cœur qui, au zéphyr, préfère les jattes de kiwis.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul ığdır",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण",
    "আমি বাংলায় গান গাই।",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "いろはにほへと ちりぬるを 色は匂へど散りぬるを。",
    "データを読み込んでいます…少々お待ちください!",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "视野无限广,窗外有蓝天。微風迎客,軟語伴茶",
    "Tiếng Việt có dấu: ắ ằ ẳ ẵ ặ ế ề ể ễ ệ",
    "Flygande bäckasiner söka hwila på mjuka tuvor, Århus, Øresund",
    "ⴰⵎⴰⵣⵉⵖ ᏣᎳᎩ ᚠᚢᚦᚨᚱᚲ 𐌰𐌱𐌲 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    "I've can't we'll they'd you're it's I'm ISN'T We'Ll 'S 'Re",
    "Price: $1,234.56 (−12.5 %), ½ ¾ ² ³ ٣٤ ६७ 一二三 Ⅳ ①",
    "\uff26\uff55\uff4c\uff4c width, half \uff76\uff85, \ufb01gure, \u01c6, \u1e9e, \u0130, \u017f",
    "e\u0301 versus é, A\u030a versus Å, q\u0307\u0323 versus q\u0323\u0307, \u1100\u1161\u11a8",
]

HARD = [
    "", " ", "  ", "\n", "\r\n", "\t", "\n\n\n", " \n \r\n ", "\u00a0", "\u3000", "\u200b", "\ufeff",
    "\x00", "a\x00b", "\x7f", "\x1b[31mred\x1b[0m", "\u2028\u2029", "\u0085",
    "[CLS]", "[SEP] [MASK]", "text [MASK] more", "<s>", "</s></s>", "a <mask> b", "a<mask>b", "  <mask>  ",
    "<|endoftext|>", "x<|endoftext|>y", "<|im_start|>user\nhi<|im_end|>\n", "<unk>", "<pad>[PAD]", "<0x0A>",
    "<|end|> <|assistant|>\n", "<tool_call>{}</tool_call>", "[cls]", "< s >", "▁", "▁▁a▁b", "Ġ", "Ċ##ing ##ing",
    "👩‍👩‍👧‍👦", "🏳️‍🌈🏴‍☠️", "🇩🇪🇫🇷🇯", "👍🏽👍🏿", "1️⃣#️⃣", "☺️☺︎", "🙂" * 20, "😀a😀 b 😀",
    "a" * 99, "a" * 100, "a" * 101, "é" * 100, "é" * 101, "中" * 150, "ab" * 1500, " " * 300, "." * 200,
    "=" * 79, "-" * 513, "0" * 64, "1234567890" * 9, "\n" * 90, "\t" * 17 + "x", "A" * 40 + "b" * 40,
    "https://example.org/a/b?c=d&e=%20f#g", "user.name+tag@mail.example.co.uk", "C:\\Users\\x\\y.txt",
    "snake_case_name camelCaseName SCREAMING_CASE kebab-case-name", "x=-1e-10;y+=0xFF<<3;", "don\u2019t \u201cquote\u201d",
    "\u0301", "a\u0301\u0302\u0303\u0304\u0305", "\u202eright to left\u202c", "\ud7ff\ue000\ufffd\uffff", "\U0010ffff",
]

BLOCKS = [
    (0x20, 0x7E), (0x00, 0x1F), (0x80, 0xFF), (0x100, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF),
    (0x400, 0x4FF), (0x530, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF), (0xE00, 0xEFF), (0x1000, 0x109F),
    (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x24FF), (0x2500, 0x2BFF), (0x3000, 0x30FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xE000, 0xF8FF), (0xF900, 0xFFFF),
    (0x10000, 0x10FFFF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE01EF),
]

JOINS = ["", " ", "  ", "\t", "\n", "\r\n", ", ", "-", "\u200d", "\u00a0", "\u0301", "'", "##", "▁", "/", "_"]


def natural(data: Path, rng: random.Random) -> list[str]:
    pools = [
        (1800, (data / "lm/tinyshakespeare/input.txt").read_text("utf-8").split("\n")),
        (1500, (data / "lm/calibration_datav3_small.txt").read_text("utf-8").split("\n")),
        (700, [json.loads(s)["text"] for s in (data / "lm/jsonl/train.jsonl").read_text("utf-8").splitlines()]),
        (1000, (data / "tokenizers/gpt2/expected/lib.rs.txt").read_text("utf-8").split("\n")),
    ]
    lines = []
    for count, pool in pools:
        pool = [s for s in pool if s.strip()]
        for _ in range(count):
            s = rng.choice(pool)
            start = rng.randrange(max(1, len(s) - LONGEST))
            lines.append(s[start : start + LONGEST])
    return lines


def codepoints(rng: random.Random) -> str:
    spans = [rng.choice(BLOCKS) for _ in range(rng.randint(1, 3))]
    out = []
    while len(out) < rng.randint(1, 40):
        c = rng.randint(*rng.choice(spans))
        if not 0xD800 <= c <= 0xDFFF:
            out.append(chr(c))
            if rng.random() < 0.15:
                out.append(" ")
    return "".join(out)


def mixed(rng: random.Random, words: list[str]) -> str:
    parts = [rng.choice(words) for _ in range(rng.randint(2, 9))]
    return "".join(p + rng.choice(JOINS) for p in parts)


def code(rng: random.Random) -> str:
    name = lambda: rng.choice(["x", "idx", "tmpBuf", "n_rows", "HTTPServer", "λ", "_", "foo2bar"])
    return " " * rng.choice([0, 0, 2, 4, 8, 13]) + rng.choice([
        f"for (int {name()} = 0; {name()} < {rng.randint(0, 9999)}; ++{name()}) {{",
        f"def {name()}(self, *{name()}, **{name()}) -> dict[str, int]:",
        f"if err := {name()}.{name()}(ctx, &{name()}); err != nil {{\n\treturn err\n}}",
        f"SELECT {name()}, COUNT(*) FROM {name()} WHERE {name()} >= {rng.random()} GROUP BY 1;",
        f'<div class="{name()}" id=\'{name()}\'>{{{{ {name()}|safe }}}}</div>',
        f"{name()} = [{name()}**2 for {name()} in range({rng.randint(1, 10**9)}) if not {name()} % 7]  # {name()}",
        f"\\frac{{\\partial {name()}}}{{\\partial {name()}}} \\leq \\sum_{{i=1}}^{{n}} {name()}_i",
        f"0x{rng.getrandbits(64):016x} ^ 0b{rng.getrandbits(12):b} & ~{rng.randint(-99999, 99999)}",
    ])


def long_word(rng: random.Random) -> str:
    alphabet = rng.choice(["abcdefghij", "aé中🙂", "ACGT", "0123456789abcdef", "-_./", "ab ", "кириллица"])
    return "".join(rng.choice(alphabet) for _ in range(rng.choice([30, 99, 100, 101, 120, 250, 700])))


def main() -> None:
    data = Path(sys.argv[1])
    rng = random.Random(SEED)
    lines = HARD + SENTENCES + natural(data, rng)
    words = [w for s in lines[-3000:] for w in s.split()] + SENTENCES + HARD * 4
    words = [w for w in words if len(w) < 90]
    lines += [code(rng) for _ in range(700)]
    lines += [long_word(rng) for _ in range(200)]
    lines += [codepoints(rng) for _ in range(2000)]
    lines += [mixed(rng, words) for _ in range(COUNT - len(lines))]
    rng.shuffle(lines)
    assert len(lines) == COUNT and all(s.encode("utf-8") is not None for s in lines)
    text = json.dumps(lines, ensure_ascii=False, indent=0).encode("utf-8")
    out = Path(__file__).with_name("lines.json.gz")
    out.write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{out.name}: {len(lines)} lines, {len(text)} bytes, {out.stat().st_size} compressed")


if __name__ == "__main__":
    main()
