#!/bin/sh
# A training that was interrupted and goes on is the same, to the bit, as one that was not:
#
#     tests/resume.sh [TRAIN [OPTION]...]       the program of examples/train.c, else build/train,
#                                               and options for it, as --precision bf16
#
# For a tiny DeepSeek-V3 and a tiny GPT-2: 12 updates at once; and 5 updates, then some until a
# signal, then the rest, with other numbers of threads. Compared are the weights, the best weights
# and the log, all but its speeds. Changed data and a forgotten --resume must be refused.
set -eu
cd "$(dirname "$0")/.."
train=${1:-build/train}
[ $# = 0 ] || shift
options=$*
tmp=$(mktemp -d)
trap '[ $? = 0 ] || tail -n 3 "$tmp"/*.out; rm -rf "$tmp"' EXIT
head -c 30000 README.md >"$tmp/a.txt"
head -c 30000 examples/train.c >"$tmp/b.txt"

fail() { echo "resume.sh: $*" >&2; exit 1; }
exec=
run() {                                 # directory, options...
    out=$tmp/$1
    shift
    $exec "$train" --out "$out" --vocab 300 --steps 12 --warmup 3 --seq 16 --batch 2 \
        --accumulate 2 --eval 4 --windows 4 --save 3 --dropout 0.1 $options "$@" \
        "$tmp/a.txt" "$tmp/b.txt" >"$out.out" 2>&1
}
refused() {                             # what the message says, options of run...
    words=$1
    shift
    ! run "$@" || fail "not refused: $*"
    grep -q "$words" "$tmp/$1.out" || fail "$* says: $(cat "$tmp/$1.out")"
}
kept() {                                # steps of the checkpoints that are there
    for path in "$tmp"/parts/checkpoint-*; do echo "${path##*-}"; done | sort -n | xargs
}
compare() {
    for file in model.safetensors best/model.safetensors tokenizer.json; do
        cmp "$tmp/whole/$file" "$tmp/parts/$file"
    done
    for run in whole parts; do cut -d , -f 1-9,11-13 "$tmp/$run/log.csv" >"$tmp/$run.csv"; done
    diff "$tmp/whole.csv" "$tmp/parts.csv"
    [ "$(wc -l <"$tmp/parts.csv")" = 13 ] || fail "the log has not 12 rows"
}

for arch in deepseek gpt2; do
    rm -rf "$tmp/whole" "$tmp/parts"
    run whole --arch $arch --threads 1
    run parts --arch $arch --threads 2 --stop-at 5
    [ "$(kept)" = "3 5" ] || fail "--keep 2 and --stop-at 5 left checkpoints $(kept)"
    # what a crash leaves: rows behind the checkpoint, half a row, halves of files
    printf '6,1,2,3\n1' >>"$tmp/parts/log.csv"
    for name in checkpoint-7 tokenizer.json best/model.safetensors; do
        echo half >"$tmp/parts/$name.tmp"
    done
    echo other >"$tmp/parts/checkpoint-030"

    (exec=exec; run parts --arch $arch --threads 1 --resume) &
    while kill -0 $! 2>/dev/null && ! grep -q '^7,' "$tmp/parts/log.csv"; do sleep 0.01; done
    [ $arch = gpt2 ] && signal=INT || signal=TERM
    kill -$signal $! 2>/dev/null || :   # it may have been too fast for this
    wait $! || fail "SIG$signal: exit status $?"
    run parts --arch $arch --threads 2 --resume
    [ -z "$(find "$tmp/parts" -name "*.tmp*")" ] || fail "halves of files stay"
    rm "$tmp/parts/checkpoint-030"
    case $(kept) in *" "*" "* | *[!2]) fail "--keep 2 left checkpoints $(kept)" ;; esac
    compare
done

refused "give --resume" parts --arch gpt2
refused "the file has weight_decay" parts --arch gpt2 --resume --weight-decay 0.5
echo "one line more" >>"$tmp/a.txt"
refused "other data" parts --arch gpt2 --resume
echo "whole, and interrupted: the same to the bit"
