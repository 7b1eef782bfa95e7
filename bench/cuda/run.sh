#!/bin/sh
# Checks and measures the CUDA engine on a machine with an NVIDIA GPU; writes
# to bench/cuda/out (or the folder given). Environment:
#   LSRSURGEON_CUBLASLT  path of libcublasLt.so, where it is not in the usual places
#   LSRSURGEON_PYTHON    a Python with torch, transformers and peft, for the comparison
# Without a GPU the Go tests say so and are skipped.
set -eu
cd "$(dirname "$0")/../.."
out=${1:-bench/cuda/out}
mkdir -p "$out"
export CGO_ENABLED=0
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv >"$out/machine.txt" 2>&1 || echo "nvidia-smi did not run" >"$out/machine.txt"
go version >>"$out/machine.txt"

go test -c -o "$out/cuda.test" ./engine/cuda
cd engine/cuda
bin=../../$out/cuda.test
case $out in /*) bin=$out/cuda.test ;; esac
dir=$(dirname "$bin")

echo "conformance, repeatability and losses on the GPU"
"$bin" -test.v -test.run '^TestGPU' >"$dir/tests.txt" 2>&1 || { tail -40 "$dir/tests.txt"; exit 1; }
grep -E '^(---|ok|PASS|FAIL)' "$dir/tests.txt" || true

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    echo "compute-sanitizer $tool"
    compute-sanitizer --tool $tool --error-exitcode 9 "$bin" -test.run '^TestGPU(Products)?$' >"$dir/$tool.txt" 2>&1 || { tail -20 "$dir/$tool.txt"; exit 1; }
  done
else
  echo "compute-sanitizer is not installed: memory and races were not checked" | tee "$dir/sanitizer.txt"
fi

echo "steps of this engine"
"$bin" -test.v -test.run '^$' -test.bench '^BenchmarkStep$' -test.benchtime 20x -test.timeout 60m 2>&1 | tee "$dir/steps.txt"

if [ -n "${LSRSURGEON_PYTHON:-}" ]; then
  echo "steps of PyTorch and PEFT"
  : >"$dir/peers.txt"
  for model in roberta-base/256 roberta-base/32 gpt2-size/8 llama-1b/2; do
    for mode in eager compile; do
      "$LSRSURGEON_PYTHON" ../../bench/cuda/torch_step.py --model "$model" --mode $mode 2>&1 | tail -1 | tee -a "$dir/peers.txt"
    done
  done
fi
