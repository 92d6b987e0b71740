#!/bin/sh
# Runs every fuzz target of the tree for the given time (default 1m).
set -eu
time=${1:-1m}
go=${GO:-go}
grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do
	dir=$(dirname "$file")
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file" | while read -r target; do
		echo "== $dir $target"
		"$go" test -run='^$' -fuzz="^$target\$" -fuzztime="$time" "$dir" </dev/null
	done
done
