#!/bin/sh
# Checks and measures the CUDA engine on a machine with an NVIDIA GPU:
#   bench/cuda/run.sh [--dry] [DIRECTORY]
# writes to bench/cuda/out or the directory given. With --dry everything runs on
# a stand-in for the driver and on tiny models, to try this script without a
# GPU; its speeds mean nothing. Environment:
#   LSRSURGEON_CUBLASLT  path of libcublasLt.so, where it is not in the usual places
#   LSRSURGEON_PYTHON    a Python with torch, transformers and peft, for the comparison;
#                        its nvidia-cublas is used where LSRSURGEON_CUBLASLT names none
# Without a GPU the Go tests say so and are skipped.
set -eu
cd "$(dirname "$0")/../.."
dry=
if [ "${1:-}" = --dry ]; then
  dry=1
  shift
fi
out=${1:-bench/cuda/out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
export CGO_ENABLED=0
rm -f "$out"/*.txt "$out"/*.jsonl

tiny= short= peer= times=20x models="roberta-base/256 roberta-base/32 gpt2-size/8 llama-1b/2" modes="eager compile"
if [ -n "$dry" ]; then
  go run ./bench/cuda/standin "$out/standin"
  export LSRSURGEON_LIBCUDA="$out/standin/libfakecuda.so" LSRSURGEON_CUBLASLT="$out/standin/libfakecublaslt.so"
  tiny=-tiny short=-test.short peer="--tiny --device cpu --steps 1" times=1x modes=eager
elif [ -z "${LSRSURGEON_CUBLASLT:-}" ] && [ -n "${LSRSURGEON_PYTHON:-}" ]; then
  for f in "$(dirname "$(dirname "$LSRSURGEON_PYTHON")")"/lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so.1*; do
    [ -e "$f" ] && export LSRSURGEON_CUBLASLT="$f"
  done
fi

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv >"$out/machine.txt" 2>&1 || echo "nvidia-smi did not run" >"$out/machine.txt"
go version >>"$out/machine.txt"
go run ./cmd/lsrsurgeon doctor >>"$out/machine.txt"
cat "$out/machine.txt"

go test -c -o "$out/cuda.test" ./engine/cuda
go build -o "$out/report" ./bench/cuda/report
cd engine/cuda

echo "conformance, attention, reduced bases, losses against the CPU's and repeatability on the GPU"
"$out/cuda.test" -test.v $short -test.run '^TestGPU' >"$out/tests.txt" 2>&1 || { tail -40 "$out/tests.txt"; exit 1; }
grep -E '^(--- |ok|PASS|FAIL)' "$out/tests.txt" || true

if [ -z "$dry" ] && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    echo "compute-sanitizer $tool"
    compute-sanitizer --tool $tool --error-exitcode 9 "$out/cuda.test" -test.run '^TestGPU(Products|Attention|Base)?$' >"$out/$tool.txt" 2>&1 || { tail -20 "$out/$tool.txt"; exit 1; }
  done
else
  echo "compute-sanitizer did not run: memory and races were not checked" | tee "$out/sanitizer.txt"
fi

echo "steps of this engine"
"$out/cuda.test" $tiny -steps "$out/steps.jsonl" -test.v -test.run '^$' -test.bench '^BenchmarkStep$' -test.benchtime $times -test.timeout 60m >"$out/steps.txt" 2>&1 || { tail -20 "$out/steps.txt"; exit 1; }

if [ -n "${LSRSURGEON_PYTHON:-}" ]; then
  echo "steps of PyTorch and PEFT"
  for model in $models; do
    for mode in $modes; do
      "$LSRSURGEON_PYTHON" ../../bench/cuda/torch_step.py --model "$model" --mode $mode $peer >"$out/peer.log" 2>&1 || { echo "$model $mode failed:"; tail -5 "$out/peer.log"; continue; }
      tail -1 "$out/peer.log" >>"$out/peers.jsonl"
    done
  done
fi
"$out/report" "$out/steps.jsonl" "$out/peers.jsonl" | tee "$out/report.txt"
