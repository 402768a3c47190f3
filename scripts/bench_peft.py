#!/usr/bin/env python3
"""Temper against PyTorch + PEFT on a CPU: speed, peak memory, and whether the losses agree.

    cargo build --release
    python3 scripts/bench_peft.py                         # everything, about half an hour on two cores
    python3 scripts/bench_peft.py --only oft --rounds 1   # a look

Both sides train the same LLaMA (6 layers, 288 wide, 6 heads, feed-forward 768, vocabulary 32,000; f32) from the same
random weights and the same adapter values on the same 4 x 256 tokens, on the same cores, with AdamW (lr 1e-3 constant,
no decay, clipping at 1). Runs alternate, so that a machine that becomes slower is slower for both.

tokens/s  input tokens over the median time of a step, first steps left out; wall clock, nothing excluded in between.
peak      largest resident set of the whole process, as the kernel reports it when the process ends.
loss      largest relative difference between the two sequences of losses.

The first run makes a virtual environment and installs the versions pinned below (a few GB). Only this file is needed.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

PINS = ["torch==2.15.0", "transformers==5.23.0", "peft==0.21.2", "numpy<3"]
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODEL = dict(vocab_size=32000, hidden_size=288, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
             intermediate_size=768, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False)
BATCH, TOKENS, LR = 4, 256, 1e-3
METHODS = {  # name: arguments of PEFT's configuration, which are also keys of [adapter]
    "oft": dict(kind="oft", oft_block_size=32, use_cayley_neumann=True, num_cayley_neumann_terms=5),
    "oft-exact": dict(kind="oft", oft_block_size=32, use_cayley_neumann=False),
    "lora": dict(kind="lora", r=16, lora_alpha=32),
    "full": dict(kind="full"),
}
REPOSITORY = Path(__file__).resolve().parent.parent


# ------------------------------------------------------------------------ inside the virtual environment

def load_model(directory, threads):
    import torch
    from transformers import LlamaForCausalLM
    torch.set_num_threads(threads)
    return LlamaForCausalLM.from_pretrained(directory / "model", dtype=torch.float32)


def adapt(model, method):
    import torch
    from peft import LoraConfig, OFTConfig, get_peft_model
    options = dict(METHODS[method])
    kind = options.pop("kind")
    if kind == "full":
        return model
    torch.manual_seed(1)
    if kind == "oft":
        config = OFTConfig(r=0, target_modules=LINEARS, task_type="CAUSAL_LM", **options)
    else:
        config = LoraConfig(target_modules=LINEARS, task_type="CAUSAL_LM", **options)
    return get_peft_model(model, config)


def prepare(directory):
    """Writes what both sides read: weights, the untrained adapter of every method, and one batch."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**MODEL)).to(torch.float32)
    model.save_pretrained(directory / "model")
    rows = torch.randint(3, MODEL["vocab_size"], (BATCH, TOKENS)).tolist()
    lines = [json.dumps({"input_ids": row, "labels": row}) for row in rows]
    (directory / "batch.jsonl").write_text("\n".join(lines) + "\n")
    for method, options in METHODS.items():
        if options["kind"] != "full":
            adapt(load_model(directory, 1), method).save_pretrained(directory / method)


def train_torch(directory, method, steps, threads, out):
    """The loop of a plain trainer; every step ends with the loss as a number, as Temper's does."""
    import torch
    model = adapt(load_model(directory, threads), method)
    model.train()
    rows = [json.loads(line) for line in (directory / "batch.jsonl").read_text().splitlines()]
    ids = torch.tensor([row["input_ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, seconds = [], [time.perf_counter()]
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter())
    count = sum(parameter.numel() for parameter in trained)
    out.write_text(json.dumps({"losses": losses, "seconds": seconds, "trained": count}))


# ----------------------------------------------------------------------------- outside of it: the standard library

def environment(path, pins=PINS):
    """The interpreter of a virtual environment with the pinned packages; made on first use."""
    python = path / "bin" / "python"
    done = path / ".pins"
    if not done.exists() or done.read_text() != "\n".join(pins):
        print(f"installing {', '.join(pins)} into {path}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *pins], check=True)
        done.write_text("\n".join(pins))
    return python


def run(command, cores, log):
    """Runs a process on `cores`; returns its peak resident bytes."""
    threads = str(len(cores))
    limits = {name: threads for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with open(log, "w") as sink:
        process = subprocess.Popen([str(word) for word in command], stdout=sink, stderr=subprocess.STDOUT,
                                   env={**os.environ, **limits},
                                   preexec_fn=lambda: os.sched_setaffinity(0, cores))
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]} ended with {process.returncode}:\n{Path(log).read_text()[-4000:]}")
    return usage.ru_maxrss * 1024


def set_up(arguments, script, pins, *options):
    """The interpreter, cores and scratch directory of a comparison, and in it what both sides read."""
    arguments.python = environment(arguments.venv, pins)
    arguments.cores = sorted(os.sched_getaffinity(0))[:arguments.threads]
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    command = [arguments.python, script, "--worker", "prepare", "--work", arguments.work, *options]
    run(command, arguments.cores, arguments.work / "prepare.log")


def recipe(directory, method, steps):
    """The TOML that makes Temper do what `train_torch` does. The batch is the whole data set: one step, one epoch."""
    options = dict(METHODS[method])
    adapter = ""
    if options["kind"] != "full":
        options["target_modules"] = LINEARS
        options["init_from"] = str(directory / method)
        adapter = "[adapter]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())
    return f"""device = "cpu"
[model]
path = {json.dumps(str(directory / "model"))}
{adapter}
[data]
kind = "tokens"
path = {json.dumps(str(directory / "batch.jsonl"))}
max_length = {TOKENS}
cache = false
[train]
steps = {steps}
batch_size = {BATCH}
lr = {LR}
schedule = "constant"
warmup_steps = 0
weight_decay = 0.0
max_grad_norm = 1.0
[precision]
compute = "f32"
[sample]
count = 0
[run]
dir = {json.dumps(str(directory / "run"))}
overwrite = true
"""


def temper_round(arguments, method):
    directory = arguments.work
    file = directory / "recipe.toml"
    file.write_text(recipe(directory, method, arguments.steps))
    peak = run([arguments.temper, "train", file], arguments.cores, directory / "temper.log")
    lines = (directory / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    summary = json.loads((directory / "run" / "summary.json").read_text())
    return {"losses": [row["loss"] for row in rows], "seconds": [row["seconds"] for row in rows], "peak": peak,
            "trained": summary.get("trainable_parameters")}


def torch_round(arguments, method, script=__file__):
    directory = arguments.work
    out = directory / "torch.json"
    command = [arguments.python, script, "--worker", method, "--work", directory, "--steps", arguments.steps,
               "--threads", len(arguments.cores), "--out", out]
    peak = run(command, arguments.cores, directory / "torch.log")
    return {**json.loads(out.read_text()), "peak": peak}


def alternate(arguments, sides, summarise, headline):
    """What `summarise(side, rounds)` makes of the runs of each method and side; `headline` puts one run into words."""
    sides = {name: side for name, side in sides.items() if arguments.side in ("both", name)}
    raw = {method: {name: [] for name in sides} for method in arguments.only}
    for index in range(arguments.rounds):
        for method in arguments.only:
            # Whoever goes second finds warm files and a warm processor: take turns.
            for name in list(sides)[::-1 if index % 2 else 1]:
                one = sides[name](arguments, method)
                raw[method][name].append(one)
                print(f"round {index + 1} {method:<10} {name:<7} {headline(summarise(name, [one]))}", flush=True)
    return {method: {name: summarise(name, rounds) for name, rounds in by_side.items()} for method, by_side in raw.items()}


def summarise(rounds, skip):
    """One row of the table out of all rounds of one side and one method."""
    times = [after - before for one in rounds
             for before, after in list(zip(one["seconds"], one["seconds"][1:]))[skip:]]
    return {"tokens_per_second": BATCH * TOKENS / statistics.median(times),
            "peak_bytes": max(one["peak"] for one in rounds),
            "trained_parameters": rounds[0]["trained"], "losses": rounds[0]["losses"], "steps_timed": len(times)}


def difference(ours, theirs):
    pairs = list(zip(ours["losses"], theirs["losses"]))
    return max(abs(a - b) / abs(b) for a, b in pairs)


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit():
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def write(arguments, name, report):
    """Writes a report of this name and moment, with the machine and the commit that it is of."""
    arguments.results.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    report = {"date": now.isoformat(timespec="seconds"), "processor": machine(), "commit": commit(), **report}
    file = arguments.results / f"{name}-{now:%Y%m%d-%H%M%S}.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {file}")


def table(results):
    print(f"\n{'method':<10} {'trained':>10} {'Temper tok/s':>13} {'PEFT tok/s':>11} {'ratio':>6} "
          f"{'Temper peak':>12} {'PEFT peak':>10} {'loss':>8}")
    for method, sides in results.items():
        ours, theirs = sides.get("temper"), sides.get("torch")
        def cell(side, key, form):
            return form(side[key]) if side and side[key] is not None else "-"
        speed, size = "{:,.0f}".format, lambda value: f"{value / 2**20:,.0f} MiB"
        ratio = f"{ours['tokens_per_second'] / theirs['tokens_per_second']:.2f}" if ours and theirs else "-"
        gap = f"{difference(ours, theirs):.0e}" if ours and theirs else "-"
        print(f"{method:<10} {cell(theirs or ours, 'trained_parameters', '{:,}'.format):>10} "
              f"{cell(ours, 'tokens_per_second', speed):>13} {cell(theirs, 'tokens_per_second', speed):>11} "
              f"{ratio:>6} {cell(ours, 'peak_bytes', size):>12} {cell(theirs, 'peak_bytes', size):>10} {gap:>8}")


def options(description, kind, choices, name, venv="bench-venv"):
    """What every comparison takes; `choices` are of one `kind`."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help=f"runs of each side and {kind}")
    parser.add_argument("--only", nargs="+", choices=choices, default=list(choices), metavar=kind.upper(),
                        help=f"{kind}s to run: {', '.join(choices)}")
    parser.add_argument("--threads", type=int, default=2, help="cores of both sides")
    parser.add_argument("--work", type=Path, default=REPOSITORY / f"target/bench-{name}", help="scratch directory")
    parser.add_argument("--venv", type=Path, default=REPOSITORY / "target" / venv, help="virtual environment")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "scripts/bench/results")
    parser.add_argument("--worker", choices=[*choices, "prepare"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser


def training_options(parser, steps):
    """What comparisons of training steps take beside."""
    parser.add_argument("--steps", type=int, default=steps, help="steps of a run")
    parser.add_argument("--skip", type=int, default=2, help="first steps of a run that are not timed")
    parser.add_argument("--side", choices=["both", "temper", "torch"], default="both")


def parse():
    parser = options(__doc__, "method", METHODS, "peft")
    training_options(parser, 12)
    parser.add_argument("--temper", type=Path, default=REPOSITORY / "target/release/temper")
    return parser.parse_args()


def worker(arguments):
    if arguments.worker == "prepare":
        prepare(arguments.work)
    else:
        train_torch(arguments.work, arguments.worker, arguments.steps, arguments.threads, arguments.out)


def main():
    arguments = parse()
    if arguments.worker:
        return worker(arguments)
    if arguments.steps <= arguments.skip + 1:
        sys.exit("--steps must exceed --skip by 2 or more: nothing would be timed")
    if arguments.side != "torch" and not arguments.temper.exists():
        sys.exit(f"{arguments.temper} is missing; run `cargo build --release` first")
    set_up(arguments, __file__, PINS)
    # The clock of the PyTorch loop starts before its first step, Temper's rows after theirs: one step more to skip.
    skip = {"temper": arguments.skip - 1, "torch": arguments.skip}
    results = alternate(arguments, {"temper": temper_round, "torch": torch_round},
                        lambda side, rounds: summarise(rounds, skip[side]),
                        lambda found: f"{found['tokens_per_second']:8,.0f} tokens/s")
    table(results)
    write(arguments, "cpu", {
        "cores": len(arguments.cores), "peers": PINS, "model": MODEL, "batch": BATCH, "tokens": TOKENS,
        "rounds": arguments.rounds, "steps": arguments.steps, "skipped_steps": arguments.skip, "results": results})


if __name__ == "__main__":
    main()
