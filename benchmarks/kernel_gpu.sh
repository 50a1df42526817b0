#!/usr/bin/env bash
# The whole GPU check and benchmark of the head's kernels, in less than 8 minutes on one CUDA GPU:
#
#     bash benchmarks/kernel_gpu.sh          results are also files in ${OUT:-./out}
#
# Needs python3 with torch, triton, numpy, jaxtyping, from a checkout, without installing and without network. Peers that
# python3 cannot import are left out; put a folder of them on PYTHONPATH to have them in. A step that fails or runs out of
# its time does not stop the others. Ends with 0 only if everything holds and every goal is met; a goal whose peer was not
# there is OWED, not met. PYTHON names another interpreter.
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
OUT=${OUT:-./out}
mkdir -p "$OUT"
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "FAIL  no GPU: PyTorch of $PYTHON sees no CUDA device; nothing was checked or measured"
    exit 1
fi

verdicts=()
failed=0

verdict() {  # name, exit code, seconds
    local word=PASS
    if [ "$2" -eq 124 ]; then
        word="FAIL (out of time)"
    elif [ "$2" -ne 0 ]; then
        word=FAIL
    fi
    [ "$2" -eq 0 ] || failed=1
    verdicts+=("$word  $1, $3 s")
    echo "== ${verdicts[-1]}"
}

step() {  # name, seconds, command...
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    echo "== $name"
    timeout --kill-after=5 "$limit" "$@"
    verdict "$name" $? $((SECONDS - began))
}

machine() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
    "$PYTHON" - <<'END'
import platform
from importlib.metadata import distributions

import torch

print(f"python {platform.python_version()}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}")
wanted = {"torch", "triton", "numpy", "transformers", "jaxtyping", "trl", "liger-kernel", "cut-cross-entropy", "verl"}
print(", ".join(sorted(f"{d.name} {d.version}" for d in distributions() if d.name.lower().replace("_", "-") in wanted)))
END
}

began=$SECONDS
machine > "$OUT/machine.txt" 2>&1
code=$?
cat "$OUT/machine.txt"
verdict "machine and versions" "$code" $((SECONDS - began))

# side by side: most of the time goes into compiling
began=$SECONDS
echo "== correctness"
codes=0
pids=()
for dtype in bfloat16 float16 float32; do
    timeout --kill-after=5 120 "$PYTHON" -m benchmarks.kernel_check --dtypes "$dtype" --seconds 100 \
        --json "$OUT/check-$dtype.json" > "$OUT/check-$dtype.txt" 2>&1 &
    pids+=($!)
done
for pid in "${pids[@]}"; do
    wait "$pid" || codes=$?
done
grep -hv '^PASS' "$OUT"/check-*.txt
verdict "correctness, $(cat "$OUT"/check-*.txt | grep -c '^PASS') claims hold" "$codes" $((SECONDS - began))

step "tiles" 90 bash -c "set -o pipefail; '$PYTHON' -m benchmarks.kernel_tiles --json '$OUT/tiles.json' \
    2>&1 | tee '$OUT/tiles.txt' | grep -v '^H '"

step "benchmark" 215 bash -c "'$PYTHON' -m benchmarks.kernel --device cuda --rounds 10 --seconds 150 --json --rows \
    3584x16384x151936-bfloat16-all+entropy 3584x16384x151936-bfloat16-half+entropy 1536x16384x151936-bfloat16-all+entropy \
    896x16384x151936-bfloat16-all+entropy 3584x4096x151936-bfloat16-all+entropy 5120x16384x151936-bfloat16-all+entropy \
    3584x16384x151936-bfloat16-fifth+entropy 896x4096x151936-bfloat16-half 3584x16384x151936-bfloat16-all \
    3584x16384x151552-bfloat16-all+entropy 3584x65536x151936-bfloat16-all+entropy \
    > '$OUT/table.json' 2> '$OUT/table.log' || { tail -20 '$OUT/table.log'; exit 1; }"
if [ -s "$OUT/table.json" ]; then
    "$PYTHON" -m benchmarks.kernel --show "$OUT/table.json" | tee "$OUT/table.txt"
fi

found=()
for file in "$OUT"/table.json "$OUT"/check-*.json; do
    [ -s "$file" ] && found+=("$file")
done
step "goals" 30 bash -c "set -o pipefail; '$PYTHON' -m benchmarks.kernel_gates ${found[*]@Q} \
    --json '$OUT/gates.json' | tee '$OUT/gates.txt'"

printf '\n%s s in all\n' "$SECONDS"
printf '%s\n' "${verdicts[@]}" | tee "$OUT/verdicts.txt"
exit "$failed"
