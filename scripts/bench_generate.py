#!/usr/bin/env python3
"""Temper against transformers.generate: generated tokens a second, peak memory, and whether the tokens agree.

    cargo build --release
    python3 scripts/bench_generate.py                 # on the CPU, about ten minutes on two cores
    python3 scripts/bench_generate.py --only equal --rounds 1
    python3 scripts/bench_generate.py --device cuda:0 --dtype bf16 --shape llama2-7b --bandwidth 3350 --only equal mixed

Both sides complete the same prompts greedily with the same weights in f32, up to 32 sequences at once, on the same cores;
runs alternate. transformers gets left-padded batches of 32 in the order of the file and its default cache; Temper
gets the whole file. Loading is timed on neither side.

equal    32 prompts of 64 tokens, 128 new tokens each: no row ends early, nothing to gain but the pass itself
mixed    96 prompts of 16 to 256 tokens, up to 256 new ones; 1 % of the vocabulary ends a row (random weights know no end)
shots    64 prompts that share a beginning of 512 tokens, 32 new tokens each: a few-shot evaluation
         (these three with a LLaMA of 6 layers, 288 wide, vocabulary 32,000, random weights)
stories  64 prompts, up to 400 new tokens, with the model in assets/stories260k, which ends its stories itself

tokens/s  new tokens up to and with the end of each row, over wall time; the median of the rounds.
agree     rows whose tokens are all equal (in f32; rounding decides near ties in bf16).
floor     share of the decode floor reached: the time to read all weights once and the keys and values of every running
          sequence, for each step, at --bandwidth GB/s (a data sheet's figure). Printed when the bandwidth is given.

The first run makes a virtual environment with the versions pinned in bench_peft.py.
"""

import json
import random
import re
import statistics
import sys
import time
from pathlib import Path

import bench_peft
from bench_peft import PINS, REPOSITORY

SHAPES = {
    "small": {**bench_peft.MODEL, "max_position_embeddings": 1024},
    "llama2-7b": dict(vocab_size=32000, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
                      num_key_value_heads=32, intermediate_size=11008, max_position_embeddings=4096, rms_norm_eps=1e-5,
                      tie_word_embeddings=False),
}
BYTES = {"f32": 4, "bf16": 2, "f16": 2}
VOCABULARY = 32000
BATCH = 32
WORKLOADS = {  # name: (model, longest completion)
    "equal": ("plain", 128),
    "mixed": ("ending", 256),
    "shots": ("plain", 32),
    "stories": ("stories", 400),
}


def prompts(workload):
    draw = random.Random(7)
    tokens = lambda count: [1] + [draw.randrange(3, VOCABULARY) for _ in range(count - 1)]
    if workload == "equal":
        return [tokens(64) for _ in range(32)]
    if workload == "mixed":
        return [tokens(draw.randint(16, 256)) for _ in range(96)]
    if workload == "shots":
        shared = tokens(512)
        return [shared + tokens(draw.randint(20, 60))[1:] for _ in range(64)]
    return [[1] + [draw.randrange(259, 512) for _ in range(draw.randint(1, 12))] for _ in range(64)]


# ------------------------------------------------------------------------ inside the virtual environment

def dtype(name):
    import torch
    return {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[name]


def prepare(arguments):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    ends = {"plain": [2], "ending": [id for id in range(VOCABULARY) if id % 100 == 7]}
    for name, eos in ends.items():
        torch.manual_seed(0)
        # Wider than usual, so that the tokens of a random model do not repeat after a few steps.
        config = LlamaConfig(**SHAPES[arguments.shape], eos_token_id=eos, initializer_range=0.1)
        LlamaForCausalLM(config).to(dtype(arguments.dtype)).save_pretrained(arguments.work / name)


def complete_torch(arguments, workload):
    import torch
    from transformers import LlamaForCausalLM
    directory, device = arguments.work, arguments.device
    torch.set_num_threads(arguments.threads)
    name, longest = WORKLOADS[workload]
    source = REPOSITORY / "assets/stories260k" if name == "stories" else directory / name
    model = LlamaForCausalLM.from_pretrained(source, dtype=dtype(arguments.dtype)).to(device).eval()
    ends = model.config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    rows = [json.loads(line)["input_ids"] for line in (directory / f"{workload}.jsonl").read_text().splitlines()]
    completed, begun = [], time.perf_counter()
    for first in range(0, len(rows), BATCH):
        batch = rows[first:first + BATCH]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in batch], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=device)
        with torch.inference_mode():
            made = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=longest,
                                  eos_token_id=ends, pad_token_id=0)
        completed += made[:, width:].tolist()
    seconds = time.perf_counter() - begun
    cut = lambda row: row[:next((i + 1 for i, id in enumerate(row) if id in set(ends)), len(row))]
    arguments.out.write_text(json.dumps({"ids": [cut(row) for row in completed], "seconds": seconds}))


# ----------------------------------------------------------------------------- outside of it: the standard library

def torch_round(arguments, workload):
    out = arguments.work / "torch.json"
    command = [arguments.python, __file__, "--worker", workload, "--work", arguments.work,
               "--threads", len(arguments.cores), "--out", out, "--device", arguments.device,
               "--dtype", arguments.dtype, "--shape", arguments.shape]
    peak = bench_peft.run(command, arguments.cores, arguments.work / "torch.log")
    return {**json.loads(out.read_text()), "peak": peak}


def temper_round(arguments, workload):
    name, longest = WORKLOADS[workload]
    source = REPOSITORY / "assets/stories260k" if name == "stories" else arguments.work / name
    out, log = arguments.work / "temper.jsonl", arguments.work / "temper.log"
    command = [arguments.temper, "generate", "--model", source, "--device", arguments.device, "--dtype", arguments.dtype,
               "--input", arguments.work / f"{workload}.jsonl", "--output", out,
               "--max-new-tokens", longest, "--batch-size", BATCH]
    peak = bench_peft.run(command, arguments.cores, log)
    seconds = float(re.search(r"read in ([0-9.]+) s:", log.read_text()).group(1))
    return {"ids": [json.loads(line)["ids"] for line in out.read_text().splitlines()], "seconds": seconds, "peak": peak}


def summarise(rounds):
    tokens = sum(map(len, rounds[0]["ids"]))
    return {"tokens": tokens, "tokens_per_second": tokens / statistics.median(one["seconds"] for one in rounds),
            "seconds": [one["seconds"] for one in rounds], "peak_bytes": max(one["peak"] for one in rounds)}


def floor(arguments, workload):
    """Tokens/s at which memory alone would limit decoding: prompts are not counted, so the true floor is a little lower."""
    if workload == "stories" or not arguments.bandwidth:
        return None
    shape, size = SHAPES[arguments.shape], BYTES[arguments.dtype]
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    weights = layers * (4 * width**2 + 3 * width * shape["intermediate_size"]) + VOCABULARY * width
    held = statistics.mean(len(row) for row in prompts(workload)) + WORKLOADS[workload][1] / 2
    cache = BATCH * held * 2 * layers * width
    return BATCH * arguments.bandwidth * 1e9 / ((weights + cache) * size)


def measure(arguments, workload):
    lines = [json.dumps({"input_ids": row}) for row in prompts(workload)]
    (arguments.work / f"{workload}.jsonl").write_text("\n".join(lines) + "\n")
    ours, theirs = [], []
    for number in range(arguments.rounds):
        theirs.append(torch_round(arguments, workload))
        ours.append(temper_round(arguments, workload))
        print(f"{workload} round {number + 1}: transformers {theirs[-1]['seconds']:.2f} s, "
              f"Temper {ours[-1]['seconds']:.2f} s", flush=True)
    agree = sum(a == b for a, b in zip(ours[0]["ids"], theirs[0]["ids"]))
    result = {"temper": summarise(ours), "transformers": summarise(theirs), "agree": agree, "rows": len(lines)}
    return {**result, "floor": floor(arguments, workload)}


def table(results):
    print(f"\n{'workload':<9} {'Temper tok/s':>13} {'transformers':>13} {'ratio':>6} {'Temper peak':>12} "
          f"{'transformers':>13} {'agree':>8} {'floor':>6}")
    for workload, result in results.items():
        ours, theirs = result["temper"], result["transformers"]
        ratio = ours["tokens_per_second"] / theirs["tokens_per_second"]
        print(f"{workload:<9} {ours['tokens_per_second']:>13,.0f} {theirs['tokens_per_second']:>13,.0f} {ratio:>6.2f} "
              f"{ours['peak_bytes'] / 2**20:>8,.0f} MiB {theirs['peak_bytes'] / 2**20:>9,.0f} MiB "
              f"{result['agree']:>5}/{result['rows']:<2} "
              + (f"{ours['tokens_per_second'] / result['floor']:>6.0%}" if result["floor"] else f"{'-':>6}"))


def parse():
    parser = bench_peft.options(__doc__, "workload", WORKLOADS, "generate")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0, for both sides")
    parser.add_argument("--dtype", choices=BYTES, default="f32")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="of the random model")
    parser.add_argument("--bandwidth", type=float, help="memory bandwidth in GB/s, for the decode floor")
    parser.add_argument("--temper", type=Path, default=REPOSITORY / "target/release/temper")
    return parser.parse_args()


def main():
    arguments = parse()
    if arguments.worker == "prepare":
        return prepare(arguments)
    if arguments.worker:
        return complete_torch(arguments, arguments.worker)
    if not arguments.temper.exists():
        sys.exit(f"{arguments.temper} is missing; build it with `cargo build --release`, or give --temper")
    bench_peft.set_up(arguments, __file__, PINS, "--shape", arguments.shape, "--dtype", arguments.dtype)
    results = {workload: measure(arguments, workload) for workload in arguments.only}
    table(results)
    bench_peft.write(arguments, f"generate-{arguments.device.replace(':', '')}", {
        "device": arguments.device, "dtype": arguments.dtype, "shape": arguments.shape,
        "bandwidth_gb_s": arguments.bandwidth, "threads": len(arguments.cores), "pins": PINS,
        "model": SHAPES[arguments.shape], "batch": BATCH, "results": results})


if __name__ == "__main__":
    main()
