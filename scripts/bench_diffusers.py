#!/usr/bin/env python3
"""Temper against PyTorch + diffusers + PEFT on a CPU: a training step of a UNet, its memory, and whether the numbers agree.

    cargo build --release -p temper-models --example unet_step
    python3 scripts/bench_diffusers.py                          # everything, about ten minutes on two cores
    python3 scripts/bench_diffusers.py --only oft --rounds 1    # a look

Both sides run the same UNet (blocks of Stable Diffusion 1.5 at a quarter of the width: 80, 160, 320, 320 channels, 8 heads,
text width 192) with the same random weights and adapter values on the same batch (2 x 4 x 32 x 32 latents, 77 tokens),
in f32, on the same cores. Runs alternate, so that a machine that becomes slower is slower for both.

forward   the prediction and its loss, no graph
oft       forward and backward, OFT with 4 blocks a layer on to_q, to_k, to_v and to_out.0 of every attention (arXiv 2306.07280)
lora      the same with LoRA of rank 4
full      the same with every parameter trained

ms        median time of a step, first steps left out.
peak      largest resident set of the whole process, as the kernel reports it when the process ends.
loss      relative difference of the losses; gradient: of the norms of all gradients together.

The first run makes a virtual environment with the versions pinned below (a few GB).
"""

import json
import statistics
import sys
import time
from pathlib import Path

import bench_peft
from bench_peft import REPOSITORY

PINS = ["torch==2.15.0", "diffusers==0.42.1", "transformers==5.23.0", "peft==0.21.2", "numpy<3"]
UNET = dict(sample_size=32, norm_num_groups=16, block_out_channels=(80, 160, 320, 320), attention_head_dim=8, cross_attention_dim=192)
BATCH, SIZE, TOKENS = 2, 32, 77
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
METHODS = {  # name: METHOD of unet_step
    "forward": "forward",
    "oft": "adapter",
    "lora": "adapter",
    "full": "full",
}


# ------------------------------------------------------------------------ inside the virtual environment

def load_unet(directory, threads):
    import torch
    from diffusers import UNet2DConditionModel
    torch.set_num_threads(threads)
    return UNet2DConditionModel.from_pretrained(str(directory / "unet"), torch_dtype=torch.float32)


def adapt(unet, method):
    import torch
    from peft import LoraConfig, OFTConfig, get_peft_model
    torch.manual_seed(1)
    if method == "oft":
        config = OFTConfig(r=4, oft_block_size=0, target_modules=ATTENTION, init_weights=False)
    else:
        config = LoraConfig(r=4, lora_alpha=4, target_modules=ATTENTION, init_lora_weights=False)
    return get_peft_model(unet, config)


def prepare(directory):
    """Writes what both sides read: weights, the values of each adapter, and one batch."""
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file
    torch.manual_seed(0)
    UNet2DConditionModel(**UNET).save_pretrained(directory / "unet")
    image = BATCH, 4, SIZE, SIZE
    batch = {"sample": torch.randn(image), "target": torch.randn(image), "timesteps": torch.tensor([17.0, 803.0]),
             "encoder_hidden_states": torch.randn(BATCH, TOKENS, UNET["cross_attention_dim"])}
    save_file(batch, directory / "batch.safetensors")
    for method in ("oft", "lora"):
        adapt(load_unet(directory, 1), method).save_pretrained(directory / method)


def step_torch(directory, method, steps, threads, out):
    """What `unet_step` does; every step ends with the loss as a number."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    unet = load_unet(directory, threads)
    if METHODS[method] == "adapter":
        unet = PeftModel.from_pretrained(unet, directory / method, is_trainable=True)
    unet.train()
    unet.requires_grad_(method == "full") if METHODS[method] != "adapter" else None
    batch = load_file(directory / "batch.safetensors")
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    losses, norms, seconds = [], [], []
    for _ in range(steps):
        begin = time.perf_counter()
        for parameter in trained:
            parameter.grad = None
        with torch.set_grad_enabled(method != "forward"):
            prediction = unet(batch["sample"], batch["timesteps"],
                              encoder_hidden_states=batch["encoder_hidden_states"]).sample
            loss = torch.nn.functional.mse_loss(prediction, batch["target"])
        if method != "forward":
            loss.backward()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
        norms.append(sum(float(p.grad.double().square().sum()) for p in trained if p.grad is not None) ** 0.5)
    count = sum(parameter.numel() for parameter in trained)
    out.write_text(json.dumps({"losses": losses, "gradient_norms": norms, "seconds": seconds, "trained": count}))


# ----------------------------------------------------------------------------- outside of it: the standard library

def temper_round(arguments, method):
    directory = arguments.work
    command = [arguments.unet_step, directory / "unet", directory / "batch.safetensors", METHODS[method], arguments.steps]
    command += [directory / method] if METHODS[method] == "adapter" else []
    log = directory / "temper.log"
    peak = bench_peft.run(command, arguments.cores, log)
    return {**json.loads(log.read_text().splitlines()[-1]), "peak": peak}


def torch_round(arguments, method):
    return bench_peft.torch_round(arguments, method, __file__)


def summarise(rounds, skip):
    """One row of the table out of all rounds of one side and one method."""
    times = [seconds for one in rounds for seconds in one["seconds"][skip:]]
    return {"ms": 1e3 * statistics.median(times), "peak_bytes": max(one["peak"] for one in rounds),
            "trained_parameters": rounds[0]["trained"], "loss": rounds[0]["losses"][-1],
            "gradient_norm": rounds[0]["gradient_norms"][-1], "steps_timed": len(times)}


def table(results):
    print(f"\n{'method':<8} {'trained':>10} {'Temper ms':>10} {'PyTorch ms':>11} {'speed':>6} "
          f"{'Temper peak':>12} {'PyTorch peak':>13} {'loss':>8} {'gradient':>9}")
    for method, sides in results.items():
        ours, theirs = sides.get("temper"), sides.get("torch")
        def cell(side, key, form):
            return form(side[key]) if side else "-"
        def gap(key):
            return f"{abs(ours[key] - theirs[key]) / theirs[key]:.0e}" if ours and theirs and theirs[key] else "-"
        time_, size = "{:,.0f}".format, lambda value: f"{value / 2**20:,.0f} MiB"
        speed = f"{theirs['ms'] / ours['ms']:.2f}" if ours and theirs else "-"
        print(f"{method:<8} {cell(ours or theirs, 'trained_parameters', '{:,}'.format):>10} {cell(ours, 'ms', time_):>10} "
              f"{cell(theirs, 'ms', time_):>11} {speed:>6} {cell(ours, 'peak_bytes', size):>12} "
              f"{cell(theirs, 'peak_bytes', size):>13} {gap('loss'):>8} {gap('gradient_norm'):>9}")


def parse():
    parser = bench_peft.options(__doc__, "method", METHODS, "diffusers", "bench-venv-diffusers")
    bench_peft.training_options(parser, 6)
    parser.add_argument("--unet-step", type=Path, default=REPOSITORY / "target/release/examples/unet_step")
    return parser.parse_args()


def main():
    arguments = parse()
    if arguments.worker == "prepare":
        return prepare(arguments.work)
    if arguments.worker:
        return step_torch(arguments.work, arguments.worker, arguments.steps, arguments.threads, arguments.out)
    if arguments.steps <= arguments.skip:
        sys.exit("--steps must exceed --skip: nothing would be timed")
    if arguments.side != "torch" and not arguments.unet_step.exists():
        sys.exit(f"{arguments.unet_step} is missing; run `cargo build --release -p temper-models --example unet_step` first")
    bench_peft.set_up(arguments, __file__, PINS)
    results = bench_peft.alternate(arguments, {"temper": temper_round, "torch": torch_round},
                                   lambda _, rounds: summarise(rounds, arguments.skip),
                                   lambda found: f"{found['ms']:9,.0f} ms")
    table(results)
    bench_peft.write(arguments, "diffusers", {
        "cores": len(arguments.cores), "peers": PINS, "unet": UNET, "batch": BATCH, "size": SIZE, "tokens": TOKENS,
        "rounds": arguments.rounds, "steps": arguments.steps, "skipped_steps": arguments.skip, "results": results})


if __name__ == "__main__":
    main()
