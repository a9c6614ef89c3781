#!/bin/sh
# make fuzz SECONDS=n: libFuzzer on each target of tests/test_fuzz.c, for n seconds in all, under
# the address, leak and undefined behaviour sanitizers. What was found stays in build/fuzz and is
# where the next run starts; an input that fails is named. Once llm.h takes it, it belongs in
# tests/data/fuzz.
seconds=${1:-60}
clang=${CLANG:-clang}
fuzz=build/fuzz
flags="-O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"
mkdir -p $fuzz/corpus $fuzz/failed
printf '#include <stdint.h>\n#include <stddef.h>\nint LLVMFuzzerTestOneInput(const uint8_t *data,
    size_t n);\nint LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
    { return !data && n; }\n' >$fuzz/probe.c
if ! "$clang" $flags $fuzz/probe.c -o $fuzz/probe 2>/dev/null; then
    echo "skipped: no $clang, or none with libFuzzer (packages clang, libclang-rt-dev)"
    exit 0
fi
"$clang" $flags -DLLM_FUZZ tests/main.c -o $fuzz/tests -lm || exit 1
targets=$($fuzz/tests --seeds $fuzz/corpus) || exit 1
n=$(echo "$targets" | wc -l)
each=$((seconds / n))
[ $each -ge 1 ] || each=1
failed=0
for target in $targets; do
    if LLM_FUZZ=$target $fuzz/tests -max_total_time=$each -timeout=20 -rss_limit_mb=3000 \
        -print_final_stats=1 -artifact_prefix="$fuzz/failed/$target-" \
        $fuzz/corpus/"$target" >$fuzz/"$target".log 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' $fuzz/"$target".log)
        echo "ok   $target: $runs inputs"
    else
        failed=$((failed + 1))
        echo "FAIL $target: $fuzz/$target.log"
        grep -E 'ERROR|SUMMARY|runtime error|^  tests/|Test unit written' $fuzz/"$target".log
    fi
done
echo "$n targets, $failed failed"
[ $failed = 0 ]
