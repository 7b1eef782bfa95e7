#!/bin/sh
# Runs every fuzz target of the tree, one after the other, for a given time each, and
# prints what each executed. It ends with 1 if one of them failed; what failed
# is then in the testdata/fuzz directory of its package.
#
#   bench/fuzz.sh            one minute each
#   bench/fuzz.sh 30m        thirty minutes each
#   bench/fuzz.sh 30m onnx   only targets whose package or name contains "onnx"
set -u
cd "$(dirname "$0")/.." || exit 1
time=${1:-1m}
only=${2:-}
failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
printf '%-28s %-26s %12s %14s  %s\n' package target seconds executions result
for file in $(git ls-files -co --exclude-standard '*_test.go' | xargs grep -l '^func Fuzz'); do
	package=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		case "$package/$target" in
		*"$only"*) ;;
		*) continue ;;
		esac
		start=$(date +%s)
		result=ok
		if ! CGO_ENABLED=0 go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$package" >"$log" 2>&1; then
			result=FAILED
			failed=1
			grep -v '^fuzz: elapsed' "$log" >&2
		fi
		execs=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
		printf '%-28s %-26s %12d %14s  %s\n' "$package" "$target" $(($(date +%s) - start)) "${execs:-0}" "$result"
	done
done
exit $failed
