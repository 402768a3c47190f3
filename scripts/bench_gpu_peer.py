#!/usr/bin/env python3
"""The PyTorch half of scripts/bench_gpu.sh: makes the tokens, trains with PEFT, prints the table.

Run by the shell script, which says what is measured and how. Needs torch (with CUDA), transformers and peft.
"""

import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import time
from pathlib import Path

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# LLaMA-2-7B (arXiv 2307.09288).
MODEL = dict(vocab_size=32000, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
             intermediate_size=11008, max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=False)
# Weights in matrix products: 32 blocks of 4 square and 3 feed-forward matrices, and the output head.
MATRIX_WEIGHTS = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
# Dense bf16 TFLOP/s by the data sheets, for the first name that is part of the card's.
PEAKS = {"H200": 989.4, "H100 PCIe": 756.0, "H100": 989.4, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.2,
         "A6000": 154.8, "RTX 3090": 71.2}


def data(arguments):
    source = random.Random(0)
    with open(arguments.out, "w") as sink:
        for _ in range(arguments.rows):
            row = [source.randrange(3, MODEL["vocab_size"]) for _ in range(arguments.length)]
            sink.write(json.dumps({"input_ids": row, "labels": row}) + "\n")


def peft_model(method):
    import torch
    from peft import LoraConfig, OFTConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(LlamaConfig(**MODEL), attn_implementation="sdpa")
    torch.set_default_dtype(torch.float32)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if method == "oft":
        config = OFTConfig(r=0, oft_block_size=32, use_cayley_neumann=True, num_cayley_neumann_terms=5,
                           target_modules=LINEARS, task_type="CAUSAL_LM")
    else:
        config = LoraConfig(r=16, lora_alpha=32, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.enable_input_require_grads()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to("cuda", torch.float32)
    return model


def train(arguments):
    import torch
    model = peft_model(arguments.method)
    model.train()
    rows = [json.loads(line)["input_ids"] for line in Path(arguments.data).read_text().splitlines()]
    ids = torch.tensor(rows, device="cuda")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, eps=1e-8, weight_decay=0.0, fused=True)
    losses, seconds = [], [time.perf_counter()]
    for _ in range(arguments.steps):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())  # waits for the card
        seconds.append(time.perf_counter())
    Path(arguments.out).write_text(json.dumps({"losses": losses, "seconds": seconds}))


def steps_of(seconds, skip):
    return [after - before for before, after in zip(seconds, seconds[1:])][skip:]


def temper_side(name, skip):
    lines = (name.with_name(name.name + ".run") / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    # The first row is written after the first step: one step fewer to skip.
    return steps_of([row["seconds"] for row in rows], skip - 1), rows[0]["loss"]


def torch_side(name, skip):
    found = json.loads(name.with_name(name.name + ".torch.json").read_text())
    return steps_of(found["seconds"], skip), found["losses"][0]


def measure(arguments, method, length, side, read):
    """One row of the table: all rounds of one side."""
    times, peaks, losses = [], [], []
    for index in range(1, arguments.rounds + 1):
        name = arguments.work / f"{method}-{length}-{index}"
        found, loss = read(name, arguments.skip)
        times += found
        losses.append(loss)
        peaks.append(float(name.with_name(f"{name.name}.{side}.peak").read_text()))
    tokens = arguments.batch_tokens // length * length
    return {"method": method, "length": length, "side": side, "tokens_per_second": tokens / statistics.median(times),
            "peak_mib": max(peaks), "first_loss": losses[0], "steps_timed": len(times)}


def matmul_rate():
    """What this card reaches in TFLOP/s on one large bf16 product: the practical ceiling."""
    import torch
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(21)]
    for _ in range(5):
        a @ b
    for event in events:
        event.record()
        a @ b
    torch.cuda.synchronize()
    return 2 * 8192**3 / statistics.median(x.elapsed_time(y) for x, y in zip(events, events[1:])) / 1e9


def peak_of(card):
    if "PEAK_TFLOPS" in os.environ:
        return float(os.environ["PEAK_TFLOPS"])
    return next((peak for name, peak in PEAKS.items() if name in card), None)


def report(arguments):
    import torch
    card = torch.cuda.get_device_name()
    peak, rate = peak_of(card), matmul_rate()
    rows = [measure(arguments, method, length, side, read)
            for length in arguments.lengths for method in arguments.methods
            for side, read in (("temper", temper_side), ("torch", torch_side))]
    stated = f"{peak:.0f}" if peak else "unknown (set PEAK_TFLOPS)"
    print(f"\n{card}: peak {stated} TFLOP/s dense bf16; a product of 8192^3 reaches {rate:.0f}")
    print(f"{'T':>5} {'method':<6} {'side':<7} {'tokens/s':>9} {'MFU 4N':>7} {'MFU 6N':>7} {'peak':>11} {'ratio':>6}")
    for row in rows:
        share = row["tokens_per_second"] * MATRIX_WEIGHTS / (peak * 1e12) if peak else None
        row["mfu_4n"], row["mfu_6n"] = (4 * share, 6 * share) if peak else (None, None)
        other = next(r for r in rows if (r["method"], r["length"], r["side"]) == (row["method"], row["length"], "torch"))
        ratio = row["tokens_per_second"] / other["tokens_per_second"]
        percent = [f"{row[key]:7.1%}" if peak else f"{'-':>7}" for key in ("mfu_4n", "mfu_6n")]
        print(f"{row['length']:>5} {row['method']:<6} {row['side']:<7} {row['tokens_per_second']:>9,.0f} {percent[0]} "
              f"{percent[1]} {row['peak_mib']:>7,.0f} MiB {ratio:>6.2f}")
    write(arguments, card, peak, rate, rows)


def write(arguments, card, peak, rate, rows):
    import peft
    import torch
    import transformers
    describe = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    found = {"date": now.isoformat(timespec="seconds"), "card": card, "commit": describe.stdout.strip(),
             "peak_tflops": peak, "matmul_tflops": rate, "batch_tokens": arguments.batch_tokens,
             "matrix_weights": MATRIX_WEIGHTS, "torch": torch.__version__, "cuda": torch.version.cuda,
             "transformers": transformers.__version__, "peft": peft.__version__, "rows": rows}
    file = Path(arguments.results) / f"gpu-{now:%Y%m%d-%H%M%S}.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("data")
    one.add_argument("--rows", type=int, required=True)
    one.add_argument("--length", type=int, required=True)
    one.add_argument("--out", required=True)
    one.set_defaults(run=data)
    one = commands.add_parser("train")
    one.add_argument("--method", choices=["oft", "lora"], required=True)
    one.add_argument("--data", required=True)
    one.add_argument("--steps", type=int, required=True)
    one.add_argument("--out", required=True)
    one.set_defaults(run=train)
    one = commands.add_parser("report")
    one.add_argument("--work", type=Path, required=True)
    one.add_argument("--methods", nargs="+", required=True)
    one.add_argument("--lengths", nargs="+", type=int, required=True)
    one.add_argument("--rounds", type=int, required=True)
    one.add_argument("--skip", type=int, required=True)
    one.add_argument("--batch-tokens", type=int, required=True)
    one.add_argument("--results", required=True)
    one.set_defaults(run=report)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
