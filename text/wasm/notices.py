"""Writes NOTICES.txt: whose code is in tokenizers.wasm, and on which terms.

    python notices.py

Needs cargo, with the crates of Cargo.lock fetched, and the documentation that
rustup installs beside the compiler. Procedural macros and build scripts run at
build time only and are not part of the module.
"""

import json
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
NAMES = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE)", re.I)
RULE = "=" * 78

HEAD = """\
Third-party code in tokenizers.wasm, the WebAssembly module that this package
embeds: the Rust crates below, the Rust standard library and the C library of
the target wasm32-wasip1. Made by notices.py from Cargo.lock and the licence
files in the crates; where a crate is under several licences of one's choice,
all of its files are given.
"""

STANDARD = """\
Rust standard library, MIT OR Apache-2.0, copyright The Rust Project Developers
(see https://thanks.rust-lang.org); its table of character properties is under
Unicode-3.0, copyright 1991-2024 Unicode, Inc. It contains the crates cfg-if,
dlmalloc, hashbrown, memchr, rustc-demangle and wasi, each under MIT or
Apache-2.0 among others.

wasi-libc, MIT OR Apache-2.0 OR Apache-2.0 WITH LLVM-exception, with parts of
musl, MIT, copyright 2005-2020 Rich Felker, et al., and of cloudlibc,
BSD-2-Clause, copyright 2015-2017 Nuxi, https://nuxi.nl/.
"""

STANDARD_TEXTS = ["MIT.txt", "Apache-2.0.txt", "LLVM-exception.txt", "BSD-2-Clause.txt", "Unicode-3.0.txt"]


def run(*args: str) -> str:
    return subprocess.run(args, cwd=HERE, check=True, capture_output=True, text=True).stdout


def crates() -> list[tuple[str, str, Path]]:
    """Name with version, licence and source directory of each linked crate."""
    meta = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1"))
    sources = {f"{p['name']} v{p['version']}": (p["license"] or "", Path(p["manifest_path"]).parent) for p in meta["packages"]}
    tree = run("cargo", "tree", "--locked", "--target", "wasm32-wasip1", "-e", "normal,no-proc-macro",
               "--prefix", "none", "--no-dedupe", "--format", "{p}")
    names = sorted({" ".join(line.split()[:2]) for line in tree.splitlines() if line.strip()})
    return [(n, *sources[n]) for n in names if not n.startswith("lsrsurgeon-text ")]


def normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").strip().splitlines())


def main() -> None:
    texts: dict[str, list[str]] = {}  # a licence text and who is under it
    listing = []
    for name, licence, folder in crates():
        listing.append(f"{name}  {licence}")
        found = [p for p in sorted(folder.iterdir()) if p.is_file() and NAMES.match(p.name)]
        if not found:
            listing[-1] += "  (no licence file in the crate)"
        for path in found:
            texts.setdefault(normal(path.read_text("utf-8")), []).append(name)
    docs = Path(run("rustc", "--print", "sysroot").strip()) / "share" / "doc" / "rust" / "licenses"
    for file in STANDARD_TEXTS:
        texts.setdefault(normal((docs / file).read_text("utf-8")), []).append("Rust standard library or wasi-libc")
    parts = [HEAD, "\n".join(listing) + "\n", STANDARD]
    for text, owners in texts.items():
        parts.append(f"{RULE}\n{', '.join(owners)}\n{RULE}\n\n{text}\n")
    (HERE / "NOTICES.txt").write_text("\n".join(parts), "utf-8")


if __name__ == "__main__":
    main()
