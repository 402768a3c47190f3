#!/usr/bin/env python3
"""Temper against PyTorch + diffusers + PEFT: training a UNet of Stable Diffusion's shape on one card, images/s and memory.

    cargo build --release --features cuda
    python3 scripts/bench_images.py                              # SD 1.5, 512 px, batch 1, 4 and 16, on cuda:0
    python3 scripts/bench_images.py --device cpu --shape tiny --batch 1 2     # whether it runs, on any machine

scripts/bench_gpu.sh calls it after the language models. Both sides train the same UNet with the same random weights on the
same latents, noise, timesteps and texts: frozen weights in bf16 (f32 on the CPU), adapter in f32, AdamW, clipping at 1,
no recomputation of activations. Temper runs as users run it, `temper train` with `images.kind = "latents"`.

oft       OFT with 4 blocks a layer on to_q, to_k, to_v and to_out.0 of every attention (arXiv 2306.07280)
lora      the same modules with LoRA of rank 4

images/s  batch over the median time of a step; the first --skip steps (compilation, tuning) are left out.
MFU       forward FLOP as PyTorch counts them, times two (frozen weights get no gradient), over the card's peak.
peak      largest memory in use on the card while the process ran, less what was in use before; on the CPU the resident set.
loss      of the first step: OFT starts as the identity and LoRA with B = 0, so both sides must agree to the precision of bf16.

No weights are downloaded. --python takes an interpreter that has torch, diffusers and peft; without it a virtual environment
with the versions of bench_diffusers.py is made.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import bench_diffusers
import bench_gpu_peer
import bench_peft
from bench_diffusers import ATTENTION
from bench_peft import REPOSITORY

SHAPES = {
    "sd15": dict(sample_size=64, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768),
    "tiny": dict(sample_size=16, block_out_channels=(32, 64, 64, 64), attention_head_dim=4, cross_attention_dim=32,
                 norm_num_groups=16),
}
TOKENS, ROWS, LR = 77, 4, 1e-4
ADAPTERS = {  # the same settings for both sides
    "oft": 'kind = "oft"\nr = 4\nuse_cayley_neumann = false',
    "lora": 'kind = "lora"\nr = 4\nlora_alpha = 4',
}


# ------------------------------------------------------------------------ inside the virtual environment

def prepare(arguments):
    """Writes the model, and one file of latents for each batch size; returns the FLOP of one image's prediction."""
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from safetensors.torch import save_file
    from torch.utils.flop_counter import FlopCounterMode
    torch.manual_seed(0)
    config = SHAPES[arguments.shape]
    dtype = torch.bfloat16 if arguments.device != "cpu" else torch.float32
    unet = UNet2DConditionModel(**config).to(dtype)
    unet.save_pretrained(arguments.work / "model/unet")
    DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).save_pretrained(
        arguments.work / "model/scheduler")
    size = config["sample_size"]
    for batch in arguments.batch:
        shape = ROWS, batch, 4, size, size
        save_file({"latents": torch.randn(shape), "noise": torch.randn(shape),
                   "timesteps": torch.randint(0, 1000, (ROWS, batch)),
                   "encoder_hidden_states": torch.randn(batch, TOKENS, config["cross_attention_dim"])},
                  arguments.work / f"latents-{batch}.safetensors")
    unet = unet.to(torch_device(arguments.device))
    place = dict(device=unet.device, dtype=dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(torch.randn(1, 4, size, size, **place), torch.tensor([1], device=unet.device),
             encoder_hidden_states=torch.randn(1, TOKENS, config["cross_attention_dim"], **place))
    facts = {"forward_flop": counter.get_total_flops()}
    if arguments.device != "cpu":
        facts |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda,
                  "matmul_tflops": bench_gpu_peer.matmul_rate()}
    (arguments.work / "facts.json").write_text(json.dumps(facts))


def torch_device(device):
    return "cpu" if device == "cpu" else "cuda"  # the card was chosen by CUDA_VISIBLE_DEVICES


def train_torch(arguments, method, batch):
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from peft import LoraConfig, OFTConfig, get_peft_model
    from safetensors.torch import load_file
    device = torch_device(arguments.device)
    half = device != "cpu"
    if not half:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    unet = UNet2DConditionModel.from_pretrained(arguments.work / "model/unet",
                                                torch_dtype=torch.bfloat16 if half else torch.float32).to(device)
    if method == "oft":
        config = OFTConfig(r=4, oft_block_size=0, use_cayley_neumann=False, target_modules=ATTENTION)
    else:
        config = LoraConfig(r=4, lora_alpha=4, target_modules=ATTENTION)
    unet = get_peft_model(unet, config)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0, fused=half)
    scheduler = DDPMScheduler.from_pretrained(arguments.work / "model/scheduler")
    rows = {name: value.to(device) for name, value in load_file(arguments.work / f"latents-{batch}.safetensors").items()}
    unet.train()
    losses, seconds = [], [time.perf_counter()]
    for step in range(arguments.steps):
        row = step % ROWS
        noise, timesteps = rows["noise"][row], rows["timesteps"][row]
        noisy = scheduler.add_noise(rows["latents"][row], noise, timesteps)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            prediction = unet(noisy, timesteps, encoder_hidden_states=rows["encoder_hidden_states"]).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())  # waits for the card
        seconds.append(time.perf_counter())
    return {"losses": losses, "seconds": bench_gpu_peer.steps_of(seconds, arguments.skip)}


# ----------------------------------------------------------------------------- outside of it: the standard library

def recipe(arguments, method, batch):
    device = "cpu" if arguments.device == "cpu" else "cuda:0"
    return f"""device = "{device}"
[model]
path = "{arguments.work}/model"
[adapter]
{ADAPTERS[method]}
[images]
kind = "latents"
prior_loss_weight = 0.0
path = "{arguments.work}/latents-{batch}.safetensors"
[precision]
compute = "{'f32' if arguments.device == 'cpu' else 'bf16'}"
[train]
steps = {arguments.steps}
lr = {LR}
weight_decay = 0.0
schedule = "constant"
[validation]
images = 0
[run]
dir = "{arguments.work}/run"
overwrite = true
"""


class CardMemory:
    """The largest memory in use on a card, in bytes, less what was in use before."""

    def __init__(self, card):
        self.command = ["nvidia-smi", "-i", card, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        self.before = self.peak = self.used()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def used(self):
        return int(subprocess.run(self.command, check=True, capture_output=True, text=True).stdout.split()[0])

    def watch(self):
        while not self.done.wait(0.2):
            self.peak = max(self.peak, self.used())

    def stop(self):
        self.done.set()
        self.thread.join()
        return (self.peak - self.before) * 2**20


def watched(arguments, command, log):
    """Runs a command; the peak of its memory where the weights are, in bytes."""
    cores = sorted(os.sched_getaffinity(0))
    if arguments.device == "cpu":
        return bench_peft.run(command, cores, log)
    memory = CardMemory(arguments.card)
    try:
        bench_peft.run(command, cores, log)
    finally:
        peak = memory.stop()
    return peak


def temper_round(arguments, method, batch):
    file = arguments.work / "recipe.toml"
    file.write_text(recipe(arguments, method, batch))
    peak = watched(arguments, [arguments.temper, "train", file], arguments.work / "temper.log")
    rows = [json.loads(line) for line in (arguments.work / "run/metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "train"]
    # The first row is written after the first step: one step fewer to skip.
    seconds = bench_gpu_peer.steps_of([row["seconds"] for row in rows], arguments.skip - 1)
    return {"losses": [row["loss"] for row in rows], "seconds": seconds, "peak": peak}


def torch_round(arguments, method, batch):
    out = arguments.work / "torch.json"
    command = [arguments.python, __file__, *arguments.same, "--worker", method, "--worker-batch", batch, "--out", out]
    peak = watched(arguments, command, arguments.work / "torch.log")
    return {**json.loads(out.read_text()), "peak": peak}


def summarise(rounds, method, batch, side):
    seconds = statistics.median(second for one in rounds for second in one["seconds"])
    return {"method": method, "batch": batch, "side": side, "images_per_second": batch / seconds,
            "peak_bytes": max(one["peak"] for one in rounds), "first_loss": rounds[0]["losses"][0],
            "steps_timed": sum(len(one["seconds"]) for one in rounds)}


def table(rows, facts, peak):
    print(f"\n{facts.get('card', 'CPU')}: {facts['forward_flop'] / 1e9:,.1f} GFLOP a prediction"
          + (f"; a product of 8192^3 reaches {facts['matmul_tflops']:.0f} TFLOP/s" if "matmul_tflops" in facts else ""))
    print(f"{'batch':>5} {'method':<6} {'side':<7} {'images/s':>9} {'MFU':>6} {'peak':>11} {'ratio':>6} {'loss':>8}")
    for row in rows:
        other = next(r for r in rows if (r["method"], r["batch"], r["side"]) == (row["method"], row["batch"], "torch"))
        row["mfu"] = row["images_per_second"] * 2 * facts["forward_flop"] / (peak * 1e12) if peak else None
        share = f"{row['mfu']:6.1%}" if peak else f"{'-':>6}"
        print(f"{row['batch']:>5} {row['method']:<6} {row['side']:<7} {row['images_per_second']:>9.2f} {share} "
              f"{row['peak_bytes'] / 2**20:>7,.0f} MiB {row['images_per_second'] / other['images_per_second']:>6.2f} "
              f"{row['first_loss']:>8.5f}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda:0", help="`cuda:N`, or `cpu`")
    parser.add_argument("--shape", choices=SHAPES, default="sd15")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--methods", nargs="+", choices=ADAPTERS, default=list(ADAPTERS))
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side, method and batch")
    parser.add_argument("--steps", type=int, default=24, help="steps of a run")
    parser.add_argument("--skip", type=int, default=8, help="first steps of a run that are not timed")
    parser.add_argument("--temper", type=Path, default=REPOSITORY / "target/release/temper")
    parser.add_argument("--python", help="interpreter with torch, diffusers and peft")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/bench-images", help="scratch directory")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "scripts/bench/results")
    parser.add_argument("--worker", choices=["prepare", *ADAPTERS], help=argparse.SUPPRESS)
    parser.add_argument("--worker-batch", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(arguments):
    sides = {"temper": temper_round, "torch": torch_round}
    cells = [(batch, method) for batch in arguments.batch for method in arguments.methods]
    found = {(cell, side): [] for cell in cells for side in sides}
    for index in range(arguments.rounds):
        for batch, method in cells:
            # Whoever goes second finds warm files: take turns.
            for side in list(sides)[::-1 if index % 2 else 1]:
                print(f"== round {index + 1}, {method}, batch {batch}: {side}", flush=True)
                found[(batch, method), side].append(sides[side](arguments, method, batch))
    return [summarise(rounds, method, batch, side) for ((batch, method), side), rounds in found.items()]


def main():
    arguments = parse()
    if arguments.worker == "prepare":
        return prepare(arguments)
    if arguments.worker:
        found = train_torch(arguments, arguments.worker, arguments.worker_batch)
        return arguments.out.write_text(json.dumps(found))
    if arguments.steps <= arguments.skip or arguments.skip < 1:
        sys.exit("--skip must be 1 or more and below --steps: nothing would be timed")
    if not arguments.temper.exists():
        sys.exit(f"{arguments.temper} is missing; run `cargo build --release` (with `--features cuda` for a card) first")
    venv = REPOSITORY / "target/bench-venv-diffusers"
    arguments.python = arguments.python or bench_peft.environment(venv, bench_diffusers.PINS)
    arguments.card = arguments.device.partition(":")[2] or "0"
    os.environ["CUDA_VISIBLE_DEVICES"] = arguments.card  # both sides see one card, their first
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.same = ["--device", arguments.device, "--shape", arguments.shape, "--work", arguments.work,
                      "--steps", arguments.steps, "--skip", arguments.skip, "--batch", *arguments.batch]
    bench_peft.run([arguments.python, __file__, *arguments.same, "--worker", "prepare"], sorted(os.sched_getaffinity(0)),
                   arguments.work / "prepare.log")
    facts = json.loads((arguments.work / "facts.json").read_text())
    rows = compare(arguments)
    peak = bench_gpu_peer.peak_of(facts["card"]) if "card" in facts else None
    table(rows, facts, peak)
    bench_peft.write(arguments, f"images-{arguments.device.replace(':', '')}", {
        "peers": bench_diffusers.PINS, "shape": SHAPES[arguments.shape], "peak_tflops": peak, **facts, "rows": rows})


if __name__ == "__main__":
    main()
