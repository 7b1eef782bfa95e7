#!/bin/sh
# Builds tokenizers.wasm.gz, the module that package text embeds, and records
# its checksum.
#
#   build.sh          build and write ../tokenizers.wasm.gz and its .sha256
#   build.sh --check  build and compare with the recorded checksum only
#
# The result depends on Cargo.lock and on the Rust release named below; paths
# of the building machine are mapped away. Needs rustup and
# `rustup target add wasm32-wasip1`.
set -eu
cd "$(dirname "$0")"

rust=1.95.0
have=$(rustc --version | cut -d' ' -f2)
if [ "$have" != "$rust" ]; then
	echo "build.sh: rustc $have found, $rust is needed: rustup toolchain install $rust" >&2
	exit 1
fi

target=${CARGO_TARGET_DIR:-$PWD/target}
home=${CARGO_HOME:-$HOME/.cargo}
CARGO_TARGET_DIR=$target
RUSTFLAGS="--remap-path-prefix=$home=/cargo --remap-path-prefix=$PWD=/text"
export CARGO_TARGET_DIR RUSTFLAGS
cargo build --quiet --release --locked --target wasm32-wasip1

wasm=$target/wasm32-wasip1/release/lsrsurgeon_text.wasm
sum=$(sha256sum <"$wasm" | cut -d' ' -f1)
if [ "${1:-}" = --check ]; then
	recorded=$(cut -d' ' -f1 <../tokenizers.wasm.sha256)
	if [ "$sum" != "$recorded" ]; then
		echo "build.sh: built $sum, recorded $recorded" >&2
		exit 1
	fi
	echo "build.sh: $sum, as recorded"
	exit 0
fi
gzip -9 -n <"$wasm" >../tokenizers.wasm.gz
echo "$sum  tokenizers.wasm" >../tokenizers.wasm.sha256
echo "build.sh: wrote tokenizers.wasm.gz, module $sum"
