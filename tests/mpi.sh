#!/bin/sh
# make test-mpi: build/train_mpi under mpirun. However a batch is shared out among ranks, and with or
# without --shard-optimizer, the losses are the same; a rank that fails ends all of them.
# MPIRUN is the launcher; writes to a temporary directory; exit status 0 if no check failed.
mpirun=${MPIRUN:-mpirun}
train=build/train_mpi
tmp=$(mktemp -d) || exit 2
trap 'rm -rf "$tmp"' EXIT
export OMP_NUM_THREADS=1
export TMPDIR="$tmp"                    # Open MPI's session directory, too
if [ "$(id -u)" = 0 ]; then             # in a container, mostly; Open MPI refuses otherwise
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
more=
"$mpirun" --version 2>&1 | grep -q 'Open MPI' && more="--oversubscribe --bind-to none"
passed=0 failed=0

check() {                               # NAME STATUS: 0 is good
    if [ "$2" = 0 ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAIL $1"
    tail -n 5 "$tmp/out" | sed 's/^/     /'
}
# directory, ranks, sequences for each, options... With this seed no token wants two experts equally,
# in which case rounding decides, and losses part
run() {
    out=$tmp/$1 ranks=$2 batch=$3
    shift 3
    timeout 60 "$mpirun" $more -np "$ranks" $train --out "$out" --batch "$batch" --steps 20 \
        --seq 16 --seed 6 "$@" LICENSE >"$tmp/out" 2>&1
}
# 20 steps whose losses differ by less than 1e-5. The norm: 1e-5 while the weights are equal, then
# 1e-3, as rounding may decide between two experts that a token wants equally
same_losses() {
    paste -d, "$tmp/$1/log.csv" "$tmp/$2/log.csv" | awk -F, '
        function far(a, b, bound) { return !(a - b <= bound * b && b - a <= bound * b) }
        NR > 1 && (far($2, $8, 1e-5) || far($3, $9, 1e-5) || $4 != $10 || far($6, $12, 2e-5) ||
                   far($5, $11, NR == 2 ? 1e-5 : 1e-3)) {
            print "step " $1 ": " $0; bad = 1 }
        END { exit bad || NR != 21 || $2 + 0 <= 0 || $6 + 0 <= 0 }' >>"$tmp/out"
}
falls() { awk -F, 'NR == 2 { first = $2 } END { exit !($2 < 0.9 * first) }' "$tmp/$1/log.csv"; }

for arch in gpt2 deepseek; do
    run $arch.1 1 4 --arch $arch
    check "$arch, 1 rank: it runs" $?
    falls $arch.1
    check "$arch, 1 rank: the loss falls" $?
    for ranks in 2 4; do
        for flag in "" --shard-optimizer; do
            run $arch.$ranks$flag $ranks $((4 / ranks)) --arch $arch $flag
            check "$arch, $ranks ranks $flag: it runs" $?
            same_losses $arch.$ranks$flag $arch.1
            check "$arch, $ranks ranks $flag: the losses are one rank's" $?
        done
    done
    # a sum of two does not depend on its order
    cmp "$tmp/$arch.2/model.safetensors" "$tmp/$arch.2--shard-optimizer/model.safetensors" \
        >>"$tmp/out" 2>&1
    check "$arch, 2 ranks: a sharded optimizer makes the same weights, to the bit" $?
    cmp -s "$tmp/$arch.1/tokenizer.json" "$tmp/$arch.4/tokenizer.json"
    check "$arch: the same tokenizer" $?
done
for precision in bf16 fp8; do
    [ $precision = bf16 ] && arch=gpt2 || arch=deepseek
    run $precision 2 1 --arch $arch --precision $precision && falls $precision
    check "$precision: the loss falls" $?
    run $precision--shard 2 1 --arch $arch --precision $precision --shard-optimizer
    cmp "$tmp/$precision/model.safetensors" "$tmp/$precision--shard/model.safetensors" \
        >>"$tmp/out" 2>&1
    check "$precision: a sharded optimizer makes the same weights, to the bit" $?
done

# ---- ranks that fail: the job ends soon, not with 0, and says which and why ------------------------
# fails NAME MESSAGE, options of rank 0, of rank 1
fails() {
    timeout 20 "$mpirun" $more -np 1 $train --out "$tmp/bad" $3 --seq 16 LICENSE \
        : -np 1 $train --out "$tmp/bad" $4 --seq 16 LICENSE >"$tmp/out" 2>&1
    status=$?
    [ $status != 0 ] && [ $status != 124 ] && grep -q "$2" "$tmp/out"
    check "$1" $?
}
fails "an option of one rank is wrong" "rank 1: --precision f31" "" "--precision f31"
fails "a trainer of one rank is refused" "rank 1: .*warmup_steps" "" "--warmup 700"
fails "the loss of one rank is not finite" "rank 1: the loss is " "" "--lr 1e6"
: >"$tmp/nowhere"
fails "rank 0 cannot write" "rank 0: .*/nowhere" "--out $tmp/nowhere/x" ""
fails "rank 0 has no text" "rank 0: $tmp/none: " "$tmp/none" "$tmp/none"
fails "a batch is larger than the text" "an update takes" "--batch 9999" "--batch 9999"

"$mpirun" $more -np 3 sh -c "echo \$\$ >'$tmp'/rank.\$\$
    exec $train --out '$tmp/killed' --steps 1000000 --seq 16 LICENSE" >"$tmp/out" 2>&1 &
job=$!
started() { grep -q "1/1000000" "$tmp/out"; }
# a zombie that nobody has waited for does not count
alive() { kill -0 "$1" 2>/dev/null && ! grep -q ') Z ' "/proc/$1/stat" 2>/dev/null; }
for i in $(seq 100); do started && break; sleep 0.2; done
started
check "three ranks start" $?
ranks=$(cat "$tmp"/rank.* 2>/dev/null)
[ -z "$ranks" ] || kill -9 "${ranks##*[!0-9]}"
for i in $(seq 50); do alive $job || break; sleep 0.2; done
if alive $job; then                     # 10 s later
    check "a killed rank ends the job" 1
    kill -9 $job
else
    wait $job
    check "a killed rank is a failure of the job" $((! $?))
fi
left=0
for rank in $ranks; do
    alive "$rank" && left=1 && kill -9 "$rank"
done
check "a killed rank ends the other ranks" $left

echo "$passed passed, $failed failed"
[ $failed = 0 ]
