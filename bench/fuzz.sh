#!/bin/sh
# Runs every fuzz target of the tree for a given time each, and prints what each
# executed. It ends with 1 if one of them failed; what failed is then in the
# testdata/fuzz directory of its package.
#
#   bench/fuzz.sh            one minute each
#   bench/fuzz.sh 30m        thirty minutes each
#   bench/fuzz.sh 30m onnx   only targets whose package or name contains "onnx"
#
# As many run at a time as there are processors, with one worker each.
set -u
cd "$(dirname "$0")/.." || exit 1
if [ "${1:-}" = one ]; then # bench/fuzz.sh one TIME PACKAGE TARGET
	log=$(mktemp) || exit 1
	trap 'rm -f "$log"' EXIT
	start=$(date +%s)
	result=ok
	# Minimising an input that covers something new may take a minute by default: all
	# of a short run, and by time it restarts the process that executes.
	if ! CGO_ENABLED=0 go test -run '^$' -parallel 1 -fuzz "^$4\$" -fuzztime "$2" -fuzzminimizetime 50x "./$3" >"$log" 2>&1; then
		# A slow execution that the end of the time cuts off counts as a failure of
		# go test's, not of the target's.
		if grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written\|panic:\|minimiz' "$log"; then
			result='ok (cut off by the clock)'
		else
			result=FAILED
			grep -v '^fuzz: elapsed' "$log" >&2
		fi
	fi
	execs=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
	printf '%-22s %-22s %8d %12s  %s\n' "$3" "$4" $(($(date +%s) - start)) "${execs:-0}" "$result"
	[ "$result" != FAILED ]
	exit
fi
printf '%-22s %-22s %8s %12s  %s\n' package target seconds executions result
for file in $(git ls-files -co --exclude-standard '*_test.go' | xargs grep -l '^func Fuzz'); do
	package=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		case "$package/$target" in
		*"${2:-}"*) echo "$package $target" ;;
		esac
	done
done | xargs -r -P "$(getconf _NPROCESSORS_ONLN)" -L 1 bench/fuzz.sh one "${1:-1m}" || exit 1
