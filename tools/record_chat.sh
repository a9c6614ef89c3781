#!/bin/sh
# A chat, recorded: a tiny DeepSeek-V3 learns questions and answers in a minute and a half, then a
# script talks to it through build/chat, and what both said goes to standard output.
#
#     tools/record_chat.sh [DIRECTORY]      of the model and its text, else build/record
#
# Needs build/train, build/chat (make) and awk. The same machine prints the same each time.
cd "$(dirname "$0")/.." || exit 2
out=${1:-build/record}
mkdir -p "$out" || exit 2
awk 'BEGIN {
    n = split("apple red,pear green,plum blue,lemon yellow,melon orange,fig brown", pairs, ",")
    srand(1)
    for (i = 0; i < 4000; i++) {
        split(pairs[1 + int(rand() * n)], fruit, " ")
        a = int(rand() * 5); b = int(rand() * 5); kind = int(rand() * 3)
        if (kind == 0) printf "Q: What colour is a %s?\nA: It is %s.\n", fruit[1], fruit[2]
        if (kind == 1) printf "Q: What is %d plus %d?\nA: %d plus %d is %d.\n", a, b, a, b, a + b
        if (kind == 2) printf "Q: Say %s.\nA: The word is %s.\n", fruit[1], fruit[1]
    }
}' >"$out/questions.txt"
build/train --arch deepseek --out "$out/model" --overwrite --vocab 400 --seq 128 --batch 8 \
    --steps 800 --eval 0 --save 0 "$out/questions.txt" >"$out/train.log" 2>&1 || {
    cat "$out/train.log" >&2
    exit 1
}
printf '%s\n' "What colour is a plum?" "What is 2 plus 3?" "/undo" "What is 1 plus 1?" "Say fig." \
    "/reset" "What colour is a pear?" |
    build/chat "$out/model" --user-prefix "Q: " --answer-prefix "A:" --suffix '\n' \
        --temperature 0 --drop-oldest
