#!/bin/sh
# The programs of examples/ and tools/, as somebody uses them: what they refuse and how they say it,
# what they write, what a terminal shows.
#
#     tests/programs.sh [DIRECTORY]     where train, generate, chat, tokenize, inspect, quantize,
#                                       evaluate are, else build
#
# One line per check that fails; "N passed, N failed" at the end; exit status 0 if none failed. The
# terminal is looked at only if there is python3.
cd "$(dirname "$0")/.." || exit 2
bin=${1:-build}
tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}
passed=0 failed=0

check() {                               # NAME STATUS: 0 is good
    if [ "$2" = 0 ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAIL $1"
    tail -n 4 "$tmp/log" | cut -c 1-300 | sed 's/^/     /'
}
run() { timeout 60 "$@" >"$tmp/log" 2>&1 </dev/null; }
train() { run "$bin/train" --arch gpt2 --vocab 300 --seq 16 --batch 4 --eval 0 --save 0 "$@"; }
says() {                                # WHAT ...: refused, in one line that says it
    words=$1
    shift
    name=$(echo "${*#"$bin"/}" | sed "s|$tmp/||g" | cut -c 1-70)
    run "$@"
    status=$?
    lines=$(wc -l <"$tmp/log")
    [ $status = 1 ] && [ "$lines" = 1 ] && grep -q -e "$words" "$tmp/log"
    check "refuses $name: $words" $?
}
has() { grep -q -e "$2" "$tmp/$1"; check "$3" $?; }     # FILE PATTERN NAME
same() { cmp "$tmp/$1" "$tmp/$2" >>"$tmp/log" 2>&1; check "$3" $?; }
value() { sed -n "s/.*\"$2\": *\([0-9.e-]*\).*/\1/p" "$tmp/$1/config.json"; }    # DIRECTORY KEY
column() { tail -n 1 "$tmp/$1/log.csv" | cut -d , -f "$2"; }          # of the last row

head -c 12000 README.md >"$tmp/text"
: >"$tmp/empty"
train --out "$tmp/m" --steps 4 --dropout 0.1 "$tmp/text"
check "a small model is trained" $?

# ---- messages ------------------------------------------------------------------------------------
t="$bin/train --out $tmp/refused"
g="$bin/generate $tmp/m"
for n in 0 -3 1.5 1e30 nan few
do says "--batch $n: not a whole number from 1 to" $t --batch $n; done
says "--lr -1: not a number from 0" $t --lr -1
says "--lr: without a value" $t --lr
says "--learning-rate: there is no such option" $t --learning-rate 1
says "--schedule slow: not one of cosine|wsd" $t --schedule slow
says "nosuch: No such file" $t nosuch
says "is a directory" $t "$tmp"
says "empty is empty" $t "$tmp/empty"
says "more text or a smaller" $t --seq 5000 "$tmp/text"
says "not a multiple of 3 heads" $t --heads 3 "$tmp/text"
says "no preset is named" $t --preset gpt9 "$tmp/text"
says "--context 10 is below --seq" $t --context 10 "$tmp/text"
for option in "--preset gpt2" "--arch gpt2" "--vocab 300" "--layers 2" "--width 64" "--context 512"
do says "${option%% *} has no effect with --from" $t --from "$tmp/m" $option "$tmp/text"; done
says "--arch has no effect with --preset" $t --preset gpt2-tiny --arch gpt2 "$tmp/text"
says "--vocab has no effect with --tokenizer" $t --tokenizer "$tmp/m" --vocab 300 "$tmp/text"
says "--min-lr has no effect with" $t --schedule constant --min-lr 1e-5 "$tmp/text"
says "--tsv has no effect on token files" $t --tsv "$tmp/m/data.tok"
says "--seq 17: .* has a context of 16" $t --from "$tmp/m" --seq 17 "$tmp/text"
says "no checkpoint to go on from" $t --resume "$tmp/text"
says "has a checkpoint: give --resume" "$bin/train" --out "$tmp/m" "$tmp/text"
[ ! -e "$tmp/refused/model.safetensors" ]
check "what is refused writes no model" $?
says "which directory" "$bin/generate"
says "config.json: .*No such file" "$bin/generate" "$tmp/nosuch" x
says "--temperature -1: not a number from 0" $g x --temperature -1
says "--penalty 0: not a number from" $g x --penalty 0
says "--top-p 1.5: not a number from 0 to 1" $g x --top-p 1.5
says "--top-k has no effect with --temperature 0" $g x --temperature 0 --top-k 4
says "the prompt was given before" $g x y
says "--file .*text: the prompt was given before" $g x --file "$tmp/text"
says "nosuch: No such file" $g --file "$tmp/nosuch"
says "--n 0: not a whole number from 1" $g x --n 0
says "--n has no effect with --temperature 0" $g x --n 2 --temperature 0
says "--presence 101: not a number from -100 to 100" $g x --presence 101
says "--stop: an empty text" $g x --stop ''
says "--stop: 16 of them are the most" $g x $(for n in $(seq 17); do echo "--stop $n"; done)
says "reads 16 at most" $g "$(head -c 900 "$tmp/text")"
says "which files" "$bin/tokenize"
says "which vocabulary" "$bin/tokenize" --out "$tmp/x.tok" "$tmp/text"
says "and --out, too" "$bin/tokenize" --tokenizer "$tmp/m" --out "$tmp/text" "$tmp/text"
says "--align -2: not a whole number" "$bin/tokenize" --tokenizer "$tmp/m" --align -2 "$tmp/text"
says "--out has no effect with --check" "$bin/tokenize" --check --out "$tmp/x.tok" "$tmp/m/data.tok"
says "not a token file" "$bin/tokenize" --check "$tmp/text"
q="$bin/quantize $tmp/m $tmp/refused.gguf"
says "a model and the GGUF file" "$bin/quantize" "$tmp/m"
says "ends in .gguf" "$bin/quantize" "$tmp/m" "$tmp/refused"
says "--type Q3_K: not one of" $q --type Q3_K
says "--type F8_E4M3: not one of" $q --type F8_E4M3
says "--tokens has no effect without --text" $q --tokens 100
says "nosuch: No such file" $q --text nosuch
says "empty: 0 tokens" $q --text "$tmp/empty"
says "config.json: .*No such file" "$bin/quantize" "$tmp/nosuch" "$tmp/refused.gguf"
says "No such file" "$bin/quantize" "$tmp/nosuch.gguf" "$tmp/refused.gguf"
says "No such file" "$bin/quantize" "$tmp/m" "$tmp/nosuch/refused.gguf"
for program in train generate chat tokenize inspect quantize evaluate; do
    run "$bin/$program" --help
    [ $? = 0 ] && [ -z "$(awk 'length > 96' "$tmp/log")" ]
    check "$program --help" $?
done
run "$bin/train" --help
grep -q 'mtp, the loss' "$tmp/log" && grep -q 'load, that' "$tmp/log" &&
    grep -q 'norm, that' "$tmp/log" && grep -q -e --tsv "$tmp/log" && grep -q -e --val "$tmp/log"
check "train --help explains mtp, load, norm, and has --tsv and --val" $?
run "$bin/train" --list
grep -q '^gpt2 .*124.4 M.*50257 *1024' "$tmp/log"
check "train --list has the presets' vocabulary and context" $?

# ---- a new model ---------------------------------------------------------------------------------
[ "$(value m n_positions)" = 16 ]
check "a new model's context is what it is trained on" $?
has m/generation_config.json '"eos_token_id": 299' "a new model writes its end of text"
train --out "$tmp/a/b/c" --steps 1 --layers 3 --heads 5 --width 40 --ffn 50 --context 64 "$tmp/text"
check "--out makes the directories above it" $?
[ "$(value a/b/c n_layer) $(value a/b/c n_head) $(value a/b/c n_embd)" = "3 5 40" ] &&
    [ "$(value a/b/c n_inner) $(value a/b/c n_positions)" = "50 64" ]
check "--layers, --heads, --width, --ffn and --context" $?
run "$bin/train" --out "$tmp/d" --vocab 300 --seq 16 --steps 1 --width 64 --eval 0 "$tmp/text"
[ "$(value d kv_lora_rank) $(value d qk_rope_head_dim)" = "12 4" ] &&
    [ "$(value d moe_intermediate_size)" = 32 ]
check "a DeepSeek-V3's other sizes follow its width" $?
[ "$(value d max_position_embeddings)" = 16 ]
check "a new DeepSeek-V3's context is what it is trained on" $?

# ---- where text comes from -----------------------------------------------------------------------
tokenize() { run "$bin/tokenize" --tokenizer "$tmp/m" --out "$tmp/$1" "$2"; }
tokenize file.tok "$tmp/text"
timeout 60 "$bin/tokenize" --tokenizer "$tmp/m" --out "$tmp/stdin.tok" /dev/stdin <"$tmp/text" \
    >"$tmp/log" 2>&1
same file.tok stdin.tok "tokenize reads its standard input"
cat "$tmp/text" | timeout 60 "$bin/tokenize" --tokenizer "$tmp/m" --out "$tmp/pipe.tok" /dev/stdin \
    >"$tmp/log" 2>&1
same file.tok pipe.tok "tokenize reads a pipe"
mkfifo "$tmp/fifo"
cat "$tmp/text" >"$tmp/fifo" & train --out "$tmp/p" --steps 1 "$tmp/fifo"
same m/data.tok p/data.tok "train reads a pipe"
same m/tokenizer.json p/tokenizer.json "train learns the tokenizer from a pipe"
train --out "$tmp/v" --steps 1 --val "$tmp/text" "$tmp/text"
same v/data.tok v/val.tok "--val is a file of its own"
[ "$(sed -n 's/.*: \([0-9]*\) sequences of.*, \([0-9]*\) to .*/\1 \2/p' "$tmp/log")" = \
    "$(sed -n 's/.*: \([0-9]*\) sequences of.*/\1 \1/p' "$tmp/log")" ]
check "with --val all of the text is learned" $?

# ---- end of text ---------------------------------------------------------------------------------
awk 'BEGIN { for (i = 0; i < 1500; i++) printf "yes, it is.<|endoftext|>" }' >"$tmp/ends"
train --out "$tmp/e" --steps 150 --lr 5e-3 --special "$tmp/ends"
grep -q '^sample: .* ==> ' "$tmp/log" && ! grep -q endoftext "$tmp/log"
check "a sample shows its prompt and no special tokens" $?
run "$bin/generate" "$tmp/e" "yes," --temperature 0
[ "$(head -n 1 "$tmp/log")" = "yes, it is." ]
check "with --special an end of text is learned, and ends what is generated" $?
run "$bin/generate" "$tmp/e" --temperature 0
[ "$(head -n 1 "$tmp/log")" = "yes, it is." ]
check "an empty prompt is the beginning of a text" $?
sed 's/<|endoftext|>/\n&\n/g' "$tmp/ends" >"$tmp/lines"
train --out "$tmp/o" --steps 1 "$tmp/lines"
grep -q "with --special it is the token" "$tmp/log"
check "a written-out end of text is noticed" $?
# 11 is the comma: the bytes come first, from ! on
for name in tokenizer_config.json special_tokens_map.json chat_template.jinja; do
    echo '{"eos_token": "<|endoftext|>"}' >"$tmp/e/$name"
done
eos=$(sed -n 's/.*"eos_token_id": *\([0-9]*\).*/\1/p' "$tmp/e/generation_config.json")
echo "{\"eos_token_id\": [$eos, 11], \"temperature\": 0.5}" >"$tmp/e/generation_config.json"
run "$bin/train" --out "$tmp/f" --from "$tmp/e" --seq 8 --steps 1 --lr 0 --special --eval 0 \
    "$tmp/ends"
check "--from: the training window may be smaller than the context" $?
for name in tokenizer_config.json special_tokens_map.json chat_template.jinja generation_config.json
do same "e/$name" "f/$name" "--from keeps $name"; done
run "$bin/train" --out "$tmp/f" --overwrite --from "$tmp/e" --dropout 0.1 --seq 8 --steps 1 --lr 0 \
    --eval 0 "$tmp/ends"
same e/generation_config.json f/generation_config.json "--from with --dropout keeps them, too"
run "$bin/generate" "$tmp/f" "yes" --temperature 0
[ "$(head -n 1 "$tmp/log")" = yes ]
check "any of several ends of text ends what is generated" $?

# ---- prompts and answers: losses are weighed by targets ------------------------------------------
awk 'BEGIN { for (i = 0; i < 300; i++) {
    printf "Q%d", i
    for (k = 0; k < (i % 7) * (i % 7); k++) printf " word%d", k
    printf "\t"
    for (k = 0; k <= i % 5; k++) printf " %d", i * k
    print "" } }' >"$tmp/pairs"
train --out "$tmp/q" --tsv --steps 30 "$tmp/pairs"
check "--tsv: prompts that are longer than a window" $?
grep -q '^[0-9]* more have nothing to learn' "$tmp/log"
check "windows without a target are left out, and counted" $?
for batch in 1 5; do
    run "$bin/train" --out "$tmp/w$batch" --from "$tmp/q" --tsv --seq 16 --steps 1 --lr 0 --eval 0 \
        --batch $batch --windows 9999 --val "$tmp/pairs" "$tmp/pairs"
done
echo "batch 1: $(column w1 11), batch 5: $(column w5 11)" >"$tmp/log"
awk -v a="$(column w1 11)" -v b="$(column w5 11)" \
    'BEGIN { exit !(a > 0 && a - b < 2e-5 && b - a < 2e-5) }'
check "a validation loss does not depend on the batch" $?
grep -q '^30,' "$tmp/q/log.csv" && [ "$(column q 3 | cut -c 1-3)" != nan ]
check "the log has each update" $?
awk -F , 'NR > 1 && !($13 > 0 || $13 == 0 && $2 == 0) { exit 1 }
    END { exit !(NR == 31 && $11 > 0 && $12 > 0 && $13 > 0) }' "$tmp/q/log.csv"
check "and its bits per byte, of training and of validation" $?

# ---- a loss that is not finite -------------------------------------------------------------------
train --out "$tmp/n" --steps 30 --lr 1e6 --clip 0 "$tmp/text"
[ $? = 1 ] && grep -q 'ten times in a row' "$tmp/log" && grep -q 'smaller --lr' "$tmp/log"
check "ten losses in a row that are not finite end it, with advice" $?

# ---- a loss that is not finite now and then ------------------------------------------------------
# A model in whose embedding one letter is NaN; its head has weights of its own, so that only
# batches with the letter have no loss.
if command -v od >/dev/null; then
    { head -c 6000 "$tmp/text" | tr -d Z; echo Z; head -c 6000 "$tmp/text" | tr -d Z; } >"$tmp/z"
    z="$bin/train --vocab 257 --seq 16 --batch 4 --preset deepseek-v3 --layers 1
        --heads 2 --width 32 --eval 0 --save 0"
    run $z --out "$tmp/z0" --steps 1 "$tmp/z"
    file=$tmp/z0/model.safetensors
    head=$(od -A n -t u4 -N 4 "$file" | tr -d ' ')
    begin=$(head -c $((8 + head)) "$file" | tail -c "$head" |
        sed 's/.*"model.embed_tokens.weight"[^}]*"data_offsets": *\[\([0-9]*\),.*/\1/')
    printf '\000\000\300\177' |         # Z is 57, the first value of its row
        dd of="$file" bs=1 seek=$((8 + head + begin + 57 * 32 * 4)) conv=notrunc 2>/dev/null
    run "$bin/train" --out "$tmp/z1" --from "$tmp/z0" --seq 16 --batch 4 --eval 0 --save 0 \
        --steps 250 --lr 1e-3 "$tmp/z"
    [ $? = 0 ] && grep -q 'leaves this batch out; if it happens often' "$tmp/log" &&
        grep -q '^[1-9] updates were left out' "$tmp/log" && [ "$(wc -l <"$tmp/z1/log.csv")" = 251 ]
    check "a loss that is not finite leaves its batch out, and the training goes on" $?
fi

# ---- going on ------------------------------------------------------------------------------------
train --out "$tmp/whole" --steps 12 "$tmp/text"
train --out "$tmp/parts" --steps 12 --save 3 --stop-at 9 "$tmp/text"
grep -q 'stopped: the same command with --resume' "$tmp/log"
check "a run that was stopped says how to go on" $?
head -c 5000 "$tmp/parts/checkpoint-9" >"$tmp/half"
cp "$tmp/half" "$tmp/parts/checkpoint-9"
train --out "$tmp/parts" --steps 12 --save 3 --resume "$tmp/text"
grep -q 'checkpoint-9: .*going on from the one of update 6' "$tmp/log"
check "a damaged newest checkpoint is said, and the one before is taken" $?
same whole/model.safetensors parts/model.safetensors "and the run ends as one that was not stopped"
train --out "$tmp/parts" --steps 12 --save 3 --resume --weight-decay 0.5 "$tmp/text"
[ $? = 1 ] && grep -q 'weight_decay' "$tmp/log"
check "checkpoints of another training are not passed over as damaged" $?
train --out "$tmp/long" --steps 12 --schedule constant "$tmp/text"
train --out "$tmp/short" --steps 6 --schedule constant "$tmp/text"
train --out "$tmp/short" --schedule constant --resume "$tmp/text"
[ $? = 1 ] && grep -q 'steps was 6: give it again, or another' "$tmp/log"
check "a run goes on with what it had, unless it is told otherwise" $?
train --out "$tmp/short" --steps 12 --schedule constant --resume "$tmp/text"
same long/model.safetensors short/model.safetensors "a run that was prolonged is the longer run"
train --out "$tmp/short" --steps 15 --schedule constant --resume --lr 1e-3 --batch 2 "$tmp/text"
check "with another learning rate and batch, too" $?

# ---- one file of weights -------------------------------------------------------------------------
run "$bin/inspect" "$tmp/m/model.safetensors"
[ $? = 0 ] && grep -q '52 tensors' "$tmp/log"
check "inspect takes a .safetensors file without a configuration" $?
run "$bin/generate" "$tmp/m/model.safetensors" x --tokens 2
check "generate takes the .safetensors file in a directory" $?

# ---- GGUF files ----------------------------------------------------------------------------------
run "$bin/quantize" "$tmp/m" "$tmp/m.gguf" --type default --text "$tmp/text" --tokens 100
[ $? = 0 ] && grep -q '^all  *52 .* 0.00000$' "$tmp/log" &&
    grep -q '^perplexity of 99 tokens: [0-9.]* before, [0-9.]* after, [-+]0.00 %$' "$tmp/log"
check "quantize: a GGUF file of a model as it is" $?
run "$bin/quantize" "$tmp/m" "$tmp/q8.gguf" --type q8_0 --text "$tmp/text" --tokens 100
[ $? = 0 ] && grep -q 'attn.c_proj.weight .* F32  to Q8_0 .* 0\.00[1-9]' "$tmp/log" &&
    grep -q '^perplexity of 99 tokens: ' "$tmp/log" && ! grep -q 'h\.0\.' "$tmp/log"
check "quantize: types, errors and perplexity, by kind of tensor" $?
run "$bin/quantize" "$tmp/m" "$tmp/all.gguf" --type Q8_0 --all --no-tokenizer
[ $? = 0 ] && grep -q 'h\.3\.attn.c_proj.weight *1 ' "$tmp/log"
check "quantize --all: a line for each tensor" $?
run "$bin/quantize" "$tmp/q8.gguf" "$tmp/again.gguf" --type Q8_0
[ $? = 0 ] && cmp "$tmp/q8.gguf" "$tmp/again.gguf" >>"$tmp/log" 2>&1
check "quantize: a GGUF file in the type that it has is the same file" $?
run "$bin/inspect" "$tmp/q8.gguf"
[ $? = 0 ] && grep -q '52 tensors' "$tmp/log" && grep -q 'blk.3.ffn_up.weight  *Q8_0 ' "$tmp/log" &&
    grep -q '^Q8_0 .* 8.50 bits a value$' "$tmp/log"
check "inspect takes a GGUF file" $?
run "$bin/generate" "$tmp/m" "The " --temperature 0 --tokens 9
head -n 1 "$tmp/log" >"$tmp/said"
run "$bin/generate" "$tmp/m.gguf" "The " --temperature 0 --tokens 9
head -n 1 "$tmp/log" | cmp - "$tmp/said" >>"$tmp/log" 2>&1
check "generate takes a GGUF file, and writes what its directory does" $?
run "$bin/tokenize" --tokenizer "$tmp/q8.gguf" --out "$tmp/gguf.tok" "$tmp/text"
same file.tok gguf.tok "tokenize takes a GGUF file's tokenizer"
says "tokenizer.ggml.model" "$bin/generate" "$tmp/all.gguf" x
cp "$tmp/m.gguf" "$tmp/before.gguf"
ln -s m.gguf "$tmp/link.gguf"
says "is the model, and" "$bin/quantize" "$tmp/m.gguf" "$tmp/m.gguf"
says "is the model, and" "$bin/quantize" "$tmp/m.gguf" "$tmp/link.gguf"
mv "$tmp/again.gguf" "$tmp/p-00002-of-00002.gguf"
says "is the model, and" "$bin/quantize" "$tmp/p-00001-of-00002.gguf" "$tmp/p-00002-of-00002.gguf"
same m.gguf before.gguf "what is refused is as it was"
[ ! -e "$tmp/refused.gguf" ] && [ ! -e "$tmp/refused.gguf.tmp" ]
check "quantize: what is refused writes no file" $?
head -c 3000 "$tmp/m.gguf" >"$tmp/half.gguf"
says "half.gguf: " "$bin/quantize" "$tmp/half.gguf" "$tmp/refused.gguf"

# ---- perplexity and choices ----------------------------------------------------------------------
e="$bin/evaluate $tmp/m"
says "a model and a file are wanted" $e
says "nosuch: No such file" $e "$tmp/nosuch"
says "config.json: .*No such file" "$bin/evaluate" "$tmp/nosuch" "$tmp/text"
says "empty: is empty" $e "$tmp/empty"
printf a >"$tmp/one"
says "one: 1 token, and two are needed" $e "$tmp/one"
says "--window 17: .*/m has a context of 16" $e "$tmp/text" --window 17
says "--window 1: not a whole number from 2" $e "$tmp/text" --window 1
says "--stride 9 is above --window 8" $e "$tmp/text" --window 8 --stride 9
says "--verbose has no effect without --choices" $e "$tmp/text" --verbose
says "--stride has no effect with --choices" $e --choices "$tmp/text" --stride 2
question() { printf "$1" >"$tmp/tsv"; }
question 'Q\tyes\t0\n'
says "tsv: line 1: 3 columns, and" $e --choices "$tmp/tsv"
question 'Q\tyes\tno\t1\n\nQ\tyes\tno\t2'
says "tsv: line 3: answer \"2\" is not a whole number from 0 to 1" $e --choices "$tmp/tsv"
question 'Q\tyes\t\t1\n'
says "tsv: line 1: choice 1 is empty" $e --choices "$tmp/tsv"
question 'Q\tyes\tabcdefghijklmnopqrstuvwxyz\t1\n'
says "has [0-9]* tokens, and a window 16" $e --choices "$tmp/tsv"
# where all weights are 0, each of 300 tokens is as likely: ln 300 = 5.70378 nats, 8.228819 bits
mkdir "$tmp/zero"
cp "$tmp/m/"*.json "$tmp/zero"
head=$(head -c 2 "$tmp/m/model.safetensors" | od -A n -t u2 | tr -d ' ')
all=$(wc -c <"$tmp/m/model.safetensors")
{ head -c $((8 + head)) "$tmp/m/model.safetensors"; head -c $((all - 8 - head)) /dev/zero; } \
    >"$tmp/zero/model.safetensors"
printf 'QZQZQZQZQZ' >"$tmp/ten"
run "$bin/evaluate" "$tmp/zero" "$tmp/ten" "$tmp/text" --window 4
[ $? = 0 ] && grep -q '^ *9  *9  *5.70378[23]  *300.0000  *8.228819  .*/ten$' "$tmp/log" &&
    grep -q '^ *[0-9]*  *120[01][0-9]  *5.70378[23]  *300.0000  .* all$' "$tmp/log"
check "evaluate: of 300 tokens that are as likely the perplexity is 300, in each text and in all" $?
cat "$tmp/ten" | timeout 60 "$bin/evaluate" "$tmp/zero" - --window 4 --stride 4 >"$tmp/log" 2>&1
grep -q '^ *7  *7  *5.70378[23] ' "$tmp/log"
check "evaluate: windows side by side leave out the first token of each" $?
question 'Q:\tZQ\tZ\tQ\t1\nQ:\tQ\tZ\t1\nZ \tZ\t Z\t0'
run "$bin/evaluate" "$tmp/zero" --choices "$tmp/tsv" --verbose
[ $? = 0 ] && grep -q '^line 1, choice 0: -11.407565 of 2 tokens, 2 bytes$' "$tmp/log" &&
    grep -q '^line 1, choice 1: -5.70378[23] of 1 tokens, 1 bytes, right, taken$' "$tmp/log" &&
    grep -q '^line 2, choice 0: -5.70378[23] of 1 tokens, 1 bytes, taken$' "$tmp/log" &&
    grep -q '^ *3  *0.6667  *0.3333  *0.3333  *0.3333  *0.4444  ' "$tmp/log"
check "evaluate --choices: the highest sum is taken, of equal ones the first" $?
question 'Q\\nQ\\\\Q\\tQQQQQQQQQQQQQQQQQQQQQQQ:\tZ\tZZ\t0\nQ\tZ\tZZ\t0\n'
run "$bin/evaluate" "$tmp/zero" --choices "$tmp/tsv" "$tmp/tsv" --verbose
[ $? = 0 ] && [ "$(grep -c 'in 1 lines of 2 the context is longer' "$tmp/log")" = 2 ] &&
    grep -q '^ *4  *1.0000  *0.0000 .* all$' "$tmp/log"
check "evaluate --choices: of a long context the end is read" $?
run "$bin/evaluate" "$tmp/m" "$tmp/text"
sed -n 4p "$tmp/log" >"$tmp/said"
run "$bin/evaluate" "$tmp/m.gguf" "$tmp/text"
sed -n 4p "$tmp/log" | cmp - "$tmp/said" >>"$tmp/log" 2>&1
check "evaluate: a GGUF file has the figures of its directory" $?

# ---- what generate can do ------------------------------------------------------------------------
printf 'The ' >"$tmp/prompt"
generate() { timeout 60 "$bin/generate" "$@" >"$tmp/out" 2>"$tmp/log" </dev/null; }
generate "$tmp/m" "The " --tokens 9
cp "$tmp/out" "$tmp/said"
generate "$tmp/m" --file "$tmp/prompt" --tokens 9
same out said "generate takes its prompt from a file"
"$bin/generate" "$tmp/m" - --tokens 9 <"$tmp/prompt" >"$tmp/out" 2>"$tmp/log"
same out said "generate takes its prompt from the standard input"
together() {                            # MODEL N SEED OPTION...
    model=$1 n=$2 seed=$3
    shift 3
    for i in $(seq "$n"); do
        [ "$i" = 1 ] || echo
        echo "==> $i of $n, seed $((seed + i - 1))"
        timeout 60 "$bin/generate" "$tmp/$model" "The " --tokens 0 --seed $((seed + i - 1)) "$@"
    done >"$tmp/said" 2>"$tmp/log"
    generate "$tmp/$model" "The " --tokens 0 --n "$n" --seed "$seed" "$@"
    same out said "generate --n $n, model $model: each text is that of its seed alone"
    has log "; the model's context is full" "generate --n $n, model $model: the context is full"
}
for model in m d; do                    # d has modules, which draft where there is one text
    together $model 3 1
    together $model 19 5 --top-p 0.9 --penalty 1.3 --presence 0.5 --frequency 0.2
done
generate "$tmp/d" "The " --tokens 0
has log "; [0-9]* of [1-9][0-9]* drafts were right" "generate says how many drafts were right"
generate "$tmp/e" "yes," --n 2 --temperature 0.01
printf '==> 1 of 2, seed 1\nyes, it is.\n\n==> 2 of 2, seed 2\nyes, it is.\n' >"$tmp/said"
same out said "generate --n: an end of text ends each of the texts"
printf 'yes, it\n' >"$tmp/said"
generate "$tmp/e" "yes," --temperature 0 --stop " is" --stop "is."
same out said "generate --stop: the text ends before the first of them"
printf '==> 1 of 2, seed 1\nyes, it i\n\n==> 2 of 2, seed 2\nyes, it i\n' >"$tmp/said"
generate "$tmp/e" "yes," --n 2 --temperature 0.01 --stop "nothing" --stop=s.
same out said "generate --n --stop: all texts end before it"
printf 'yes, it is.\n' >"$tmp/said"
generate "$tmp/e" "yes," --temperature 0 --stop ".." --stop ".\n" --stop "i.s"
same out said "generate --stop: what only begins one comes out"
# all logits are 0: of equal ones the first is taken, and the bytes come first
printf '%s\n' 'Q!!!!!' >"$tmp/said"
generate "$tmp/zero" Q --temperature 0 --tokens 5 --frequency -1
same out said "generate: below 0, the penalty of a token is a gain"
printf '%s\n' 'Q!"#$%' >"$tmp/said"
for option in --presence --frequency; do
    generate "$tmp/zero" Q --temperature 0 --tokens 5 $option 1
    same out said "generate $option takes from what the text has"
done
# ---- a conversation ------------------------------------------------------------------------------
train --out "$tmp/k" --steps 1 --context 96 "$tmp/text"
k="$bin/chat $tmp/k"
talk() {                                # LINES OPTION...: what is said goes to $tmp/said
    printf "$1" >"$tmp/lines"
    shift
    timeout 60 $k --tokens 8 --temperature 0 "$@" <"$tmp/lines" >"$tmp/said" 2>"$tmp/log"
}
json() { printf '%s' "$1" >"$tmp/list.json"; shift; timeout 60 $k "$@" >"$tmp/said" 2>"$tmp/log"; }
talk 'Hello\nAnd then?\n' --verbose
[ $? = 0 ] && [ "$(grep -cx '> Hello\|> And then?' "$tmp/said")" = 2 ]
check "chat: the standard input is a conversation" $?
sed -n 's/^.\([0-9]*\) of \([0-9]*\) tokens read.*; \([0-9]*\) written.*/\1 \2 \3/p' "$tmp/log" |
    awk 'NR == 1 { held = $2 + $3 - 1; all = $1 == $2 } NR == 2 { exit !(all && $1 == $2 - held) }'
check "chat: a turn evaluates only what is new" $?
[ "$(wc -l <"$tmp/log")" = 3 ] && grep -q 'brings no template' "$tmp/log"
check "chat: a model without a template is said to have none" $?
talk 'Hello\nMore\n' --format none
[ ! -s "$tmp/log" ]
check "chat: it says nothing else into a file" $?
cp "$tmp/said" "$tmp/once"
talk 'Hello\nWhat?\n/undo\nMore\n' --format none
sed '/^> What/,/^> .undo/d' "$tmp/said" | cmp - "$tmp/once" >>"$tmp/log" 2>&1
check "chat: /undo" $?
talk 'Hello\n/reset\n/undo\n/undo\n/nosuch\nHello\nMore\n' --format none
sed '1,/^> .nosuch/d' "$tmp/said" | cmp - "$tmp/once" >>"$tmp/log" 2>&1 &&
    grep -q 'no turn to take back' "$tmp/log" && grep -q '/nosuch: there is no such' "$tmp/log"
check "chat: /reset, and commands that cannot be done" $?
talk 'Hello\n' --format none --system "Be brief."
cp "$tmp/said" "$tmp/once"
talk '/system Be brief.\nHello' --format none
tail -n +2 "$tmp/said" | cmp - "$tmp/once" >>"$tmp/log" 2>&1
check "chat: /system" $?
lines=$(for i in 1 2 3 4 5 6 7 8 9; do printf 'Tell me more of it\\n'; done)
talk "$lines" --format none
[ $? = 0 ] && grep -q 'tokens, and there is room for 96: /undo, /reset or --drop-oldest' "$tmp/log"
check "chat: a full context is said" $?
talk "$lines" --format none --drop-oldest --verbose
[ $? = 0 ] && ! grep -q 'room for' "$tmp/log" && [ "$(grep -c 'tokens read' "$tmp/log")" = 9 ] &&
    grep -q 'the context of 96 tokens is full: the first [0-9]* messages go' "$tmp/log"
check "chat --drop-oldest: a full context is made room in" $?
for cache in f16 bf16 q8_0; do
    talk 'Hello\n' --format none --cache $cache --context 40
    check "chat --cache $cache" $?
done
list='[{"role": "system", "content": "a"}, {"role": "user", "content": "b\n<|endoftext|>\u00e9"}]'
json "$list" --format none --print-prompt "$tmp/list.json"
printf 'ab\n<|endoftext|>\303\251' | cmp - "$tmp/said" >>"$tmp/log" 2>&1
check "chat --print-prompt" $?
json "$list" --print-prompt "$tmp/list.json" --user-prefix '\nUser: ' --answer-prefix 'Bot:' \
    --suffix '<|endoftext|>\n'
printf 'a<|endoftext|>\n\nUser: b\n<|endoftext|>\303\251<|endoftext|>\nBot:' |
    cmp - "$tmp/said" >>"$tmp/log" 2>&1
check "chat: prefixes of one's own" $?
json "$list" --print-tokens "$tmp/list.json" --user-prefix 'U' --suffix '<|endoftext|>'
[ "$(tr ' ' '\n' <"$tmp/said" | grep -cx 299)" = 2 ]
check "chat: a special token that a message spells stays text" $?
says "which directory" "$bin/chat"
says "format nosuch: there is no such; give --format (deepseek-v2, " $k --format nosuch
says "--format has no effect with prefixes" $k --format none --suffix x
says "the vocabulary has no token <|im_start|>" $k --format chatml --print-tokens "$tmp/list.json"
for list in '{}' '[]' '[{"role": "user"}]' '[{"role": "user", "content": null}]' '[[]]' \
    '[{"role": "robot", "content": "x"}]' '[{"content": "x"}]'; do
    printf '%s' "$list" >"$tmp/list.json"
    says "list.json: \(no messages\|the messages are\|message 1: its\)" \
        $k --print-prompt "$tmp/list.json"
done
says "nosuch: cannot open" "$bin/chat" "$tmp/nosuch"
printf "{{ bos_token }}\n{%%- for message in messages %%}[INST]" >"$tmp/k/chat_template.jinja"
says 'not one that is known: "{{ bos_token }}.{%- for message.*; give --format (deepseek-v2, ' $k
talk 'Hello\n' --format none
check "chat: --format instead of the model's template" $?
rm "$tmp/k/chat_template.jinja"
run "$bin/quantize" "$tmp/k" "$tmp/k.gguf" --type default
talk 'Hello\nMore\n' --format none
cp "$tmp/said" "$tmp/once"
k="$bin/chat $tmp/k.gguf"
talk 'Hello\nMore\n' --format none
cmp "$tmp/said" "$tmp/once" >>"$tmp/log" 2>&1
check "chat takes a GGUF file, and says what its directory does" $?

# ---- what is seen --------------------------------------------------------------------------------
train --out "$tmp/s" --steps 4 --seconds 0 "$tmp/text"
grep -q 'done  update 1 ' "$tmp/log" && grep -q '^the time is up' "$tmp/log"
check "a run whose time is up does not look unfinished" $?
grep -q 'tokens of a vocabulary of 300' "$tmp/log" && grep -q 'bits/byte' "$tmp/log"
check "the vocabulary is named, losses are per byte, too" $?
next=$(sed -n '/^try it:/{n;p;}' "$tmp/log")
sh -c "$next" >"$tmp/log" 2>&1
check "what it says to type next works" $?
if command -v python3 >/dev/null; then
    cat >"$tmp/screen.py" <<'END_OF_PYTHON'
"""COLUMNS COMMAND...: what a terminal of so many columns gets; each state of a line on a line"""
import fcntl, os, pty, struct, sys, termios
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, int(sys.argv[1]), 0, 0))
    os.execvp(sys.argv[2], sys.argv[2:])
shown = b""
try:
    while part := os.read(terminal, 65536):
        shown += part
except OSError:
    pass
print(shown.decode("utf-8", "replace").replace("\033[K", "").replace("\r", "\n"))
sys.exit(os.waitpid(child, 0)[1] != 0)
END_OF_PYTHON
    for columns in 50 80 120; do
        run python3 "$tmp/screen.py" $columns "$bin/train" --out "$tmp/t" --overwrite --arch gpt2 \
            --vocab 300 --steps 60 --eval 0 "$tmp/text"
        [ $? = 0 ] && grep -q '^\[#*\.*\] [0-9]*:[0-9][0-9] left  [0-9]*/60  loss' "$tmp/log" &&
            ! grep '^\[[#.]' "$tmp/log" | awk -v n=$columns 'length > n' | grep -q .
        check "$columns columns: bar and time left come first, and nothing is cut off" $?
    done
    grep -q 'norm' "$tmp/log"
    check "a wide terminal shows more" $?
fi

echo "$passed passed, $failed failed"
[ $failed = 0 ]
