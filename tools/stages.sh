#!/usr/bin/env bash
# Runs targets of the Makefile as stages: tools/stages.sh lint pytest ...
# Heads each with one line, tells its time, stops at the first that fails unless KEEP_GOING is set, and ends with a
# table and the counts. Exit code 1 when a stage failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN {printf "%.1f s", b - a}'; }

passed=0 failed=0 skipped=0 table=() begun=$(now)
for stage in "$@"; do
    if ((failed)) && [[ -z ${KEEP_GOING:-} ]]; then
        skipped=$((skipped + 1))
        table+=("$(printf '%-10s skipped' "$stage")")
        continue
    fi
    printf '\n=== %s\n' "$stage"
    start=$(now)
    if make --no-print-directory "$stage" </dev/null; then
        verdict=passed passed=$((passed + 1))
    else
        verdict=FAILED failed=$((failed + 1))
    fi
    printf '=== %s: %s in %s\n' "$stage" "$verdict" "$(since "$start")"
    table+=("$(printf '%-10s %s %10s' "$stage" "$verdict" "$(since "$start")")")
done

printf '\n=== summary, %s in all\n' "$(since "$begun")"
printf '%s\n' "${table[@]}"
printf 'stages: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0))
