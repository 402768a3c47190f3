#!/usr/bin/env bash
# Temper against PyTorch + PEFT on one NVIDIA card, same shapes, same run: tokens/s, images/s, MFU, peak memory.
#
#   cargo build --release --features cuda
#   scripts/bench_gpu.sh                       # LLaMA-2-7B, OFT b=32 and LoRA r=16, T = 512 and 2048, bf16; then SD 1.5
#   LENGTHS=512 METHODS=oft IMAGES= scripts/bench_gpu.sh     # IMAGES: batch sizes of SD 1.5, none to leave it out
#
# Needs
#   - an NVIDIA card of compute capability 8.0 or newer with 40 GB (24 GB: BATCH_TOKENS=2048) and its driver;
#   - NVRTC and the CUDA headers, 12.8 or newer, where CUDA_PATH (or /usr/local/cuda) points;
#   - python3 with venv. PYTHON=... takes an interpreter that has torch (with CUDA), transformers, diffusers and peft; without it
#     a virtual environment with pinned versions is made under target/ (several GB);
#   - no other program on the card. No weights are downloaded: both sides draw them at random.
#
# `temper verify` runs first: a fast wrong kernel is worth nothing.
# Both sides: random bf16 weights, f32 adapter, AdamW, gradient checkpointing per layer, random tokens, no padding.
#
# tokens/s   input tokens over the median time of a step, the first SKIP steps (compilation, tuning) left out.
# MFU        FLOP that the mathematics needs over the peak of the card (PEAK_TFLOPS, dense bf16, else by its name).
#            N = 6.607e9 weights in matrix products. "4N": frozen weights get no gradient, so a token costs 2N forward
#            and 2N backward. "6N" is what training all weights would need, printed because many publications divide by
#            it. Attention and recomputation are counted in neither.
# peak       largest memory in use on the card while the process ran, less what was in use before.
set -euo pipefail
cd "$(dirname "$0")/.."

TEMPER=${TEMPER:-target/release/temper}
CARD=${CARD:-0}
METHODS=${METHODS:-oft lora}
LENGTHS=${LENGTHS:-512 2048}
BATCH_TOKENS=${BATCH_TOKENS:-8192}
STEPS=${STEPS:-16}
SKIP=${SKIP:-6}
ROUNDS=${ROUNDS:-2}
WORK=${WORK:-target/bench-gpu}
IMAGES=${IMAGES-1 4 16}
RESULTS=${RESULTS:-scripts/bench/results}
PINS=(torch==2.15.0 transformers==5.23.0 diffusers==0.42.1 peft==0.21.2 'numpy<3')

fail() { echo "bench_gpu: $*" >&2; exit 1; }
command -v nvidia-smi >/dev/null || fail "nvidia-smi is missing: this needs an NVIDIA card and its driver"
[ -x "$TEMPER" ] || fail "$TEMPER is missing; run: cargo build --release --features cuda"
mkdir -p "$WORK" "$RESULTS"

if [ -z "${PYTHON:-}" ]; then
    PYTHON=target/bench-venv/bin/python
    if ! "$PYTHON" -c 'import torch, transformers, diffusers, peft' 2>/dev/null; then
        python3 -m venv target/bench-venv
        "$PYTHON" -m pip install --quiet "${PINS[@]}"
    fi
fi
"$PYTHON" -c 'import torch; assert torch.cuda.is_available()' || fail "PyTorch of $PYTHON sees no card"

echo "== verify"
"$TEMPER" verify --device "cuda:$CARD" || fail "results on the card differ from those on the CPU: nothing was timed"

used_now() { nvidia-smi -i "$CARD" --query-gpu=memory.used --format=csv,noheader,nounits; }

# watched NAME COMMAND...: runs the command and leaves the peak of the card in MiB in NAME.peak
watched() {
    local name=$1 before sampler status=0
    shift
    before=$(used_now)
    nvidia-smi -i "$CARD" --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$name.memory" &
    sampler=$!
    "$@" >"$name.log" 2>&1 || status=$?
    kill "$sampler" 2>/dev/null || true
    wait "$sampler" 2>/dev/null || true
    if [ "$status" != 0 ]; then
        tail -n 40 "$name.log" >&2
        fail "$1 ended with $status (log: $name.log)"
    fi
    sort -n "$name.memory" | tail -n 1 | awk -v before="$before" '{ print $1 - before }' >"$name.peak"
}

adapter() {
    case $1 in
        oft) echo 'kind = "oft"
oft_block_size = 32
use_cayley_neumann = true
num_cayley_neumann_terms = 5' ;;
        lora) echo 'kind = "lora"
r = 16
lora_alpha = 32' ;;
        *) fail "METHODS may hold oft and lora, not $1" ;;
    esac
}

recipe() { # METHOD LENGTH BATCH DIRECTORY
    cat <<TOML
device = "cuda:$CARD"
[model]
preset = "llama2-7b"
init = "random"
[adapter]
$(adapter "$1")
target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
[data]
kind = "tokens"
path = "$WORK/tokens-$2.jsonl"
max_length = $2
cache = false
[train]
steps = $STEPS
batch_size = $3
lr = 2e-4
schedule = "constant"
warmup_steps = 0
gradient_checkpointing = true
[precision]
compute = "bf16"
[sample]
count = 0
[run]
dir = "$4"
overwrite = true
TOML
}

for length in $LENGTHS; do
    batch=$((BATCH_TOKENS / length))
    [ "$batch" -ge 1 ] || fail "BATCH_TOKENS must be at least $length"
    "$PYTHON" scripts/bench_gpu_peer.py data --rows "$batch" --length "$length" --out "$WORK/tokens-$length.jsonl"
done
for round in $(seq "$ROUNDS"); do
    for length in $LENGTHS; do
        batch=$((BATCH_TOKENS / length))
        for method in $METHODS; do
            name=$WORK/$method-$length-$round
            echo "== round $round, $method, T = $length, batch $batch: Temper"
            recipe "$method" "$length" "$batch" "$name.run" >"$name.toml"
            watched "$name.temper" "$TEMPER" train "$name.toml"
            echo "== round $round, $method, T = $length, batch $batch: PyTorch + PEFT"
            watched "$name.torch" env CUDA_VISIBLE_DEVICES="$CARD" "$PYTHON" scripts/bench_gpu_peer.py train \
                --method "$method" --data "$WORK/tokens-$length.jsonl" --steps "$STEPS" --out "$name.torch.json"
        done
    done
done
CUDA_VISIBLE_DEVICES="$CARD" "$PYTHON" scripts/bench_gpu_peer.py report --work "$WORK" --methods $METHODS \
    --lengths $LENGTHS --rounds "$ROUNDS" --skip "$SKIP" --batch-tokens "$BATCH_TOKENS" --results "$RESULTS"
if [ -n "$IMAGES" ]; then
    # bench_images.py says what is measured. The script chooses the card itself, so it is not hidden from it here.
    "$PYTHON" scripts/bench_images.py --device "cuda:$CARD" --temper "$TEMPER" --python "$PYTHON" --batch $IMAGES \
        --methods $METHODS --rounds "$ROUNDS" --work "$WORK/images" --results "$RESULTS"
fi
