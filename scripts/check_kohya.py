"""Checks files with kohya's keys, as `temper convert` writes them, in the loaders of two other programs.

    .venv/bin/python scripts/check_kohya.py target/release/temper   # torch 2.15.0, diffusers 0.42.1, peft 0.21.2, transformers, lycoris_lora

A random LoRA (linear layers and convolutions, two ranks, alpha unlike rank) of a tiny UNet of Stable Diffusion 1.x and of one of XL is
saved by PEFT, converted, and loaded by diffusers and by LyCORIS, the program of kohya's extensions. The outputs under PEFT must come
back, and must not be those of the bare model. Prints one line a loader; exits with 1 when one differs.
"""

import copy
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from lycoris.kohya import LycorisNetworkKohya, create_network_from_weights
from peft import LoraConfig, get_peft_model

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/diffusion"
MODULES = ["to_q", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.2", "conv_shortcut"]
# Its list of names and its list of kinds both have the time embedding, which it then refuses.
LycorisNetworkKohya.UNET_TARGET_REPLACE_NAME = []


def sd1():
    unet = UNet2DConditionModel.from_pretrained(GOLDEN / "pipeline/unet")
    return pipeline(StableDiffusionPipeline, unet, safety_checker=None, feature_extractor=None)


def sdxl():
    """As many blocks as XL has, because other programs count them."""
    config = dict(
        UNet2DConditionModel.load_config(GOLDEN / "pipeline_sdxl/unet"),
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[8, 16, 32],
        layers_per_block=2,
        transformer_layers_per_block=[1, 1, 2],
        attention_head_dim=[2, 2, 4],
    )
    unet = UNet2DConditionModel.from_config(config)
    return pipeline(StableDiffusionXLPipeline, unet, text_encoder_2=None, tokenizer_2=None)


def pipeline(kind, unet, **others):
    scheduler = DDIMScheduler()
    return kind(vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, **others)


def output(unet):
    generator = torch.Generator().manual_seed(1)
    config = unet.config
    latents = torch.randn(2, config.in_channels, 8, 8, generator=generator)
    text = torch.randn(2, 5, config.cross_attention_dim, generator=generator)
    added = {}
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {
            "text_embeds": torch.randn(2, width, generator=generator),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
        }
    with torch.no_grad():
        return unet(latents, torch.tensor([3, 700]), encoder_hidden_states=text, added_cond_kwargs=added).sample


def report(name, found, expected, bare):
    error = (found - expected).abs().max().item()
    moved = (expected - bare).abs().max().item()
    good = error <= 1e-5 * max(1.0, expected.abs().max().item()) and moved > 1e-2
    print(f"{name}: largest difference {error:.1e}, the adapter moves outputs by {moved:.1e}{'' if good else '  DIFFERS'}")
    return good


def by_diffusers(pipeline, file):
    pipeline.load_lora_weights(file)
    return output(pipeline.unet)


def by_lycoris(unet, file):
    network, weights = create_network_from_weights(1.0, str(file), None, None, unet)
    network.apply_to(None, unet, apply_text_encoder=False, apply_unet=True)
    network.load_state_dict(weights)
    return output(unet)


def check(name, golden, pipeline, temper, folder):
    bare = copy.deepcopy(pipeline.unet)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=MODULES, init_lora_weights=False, rank_pattern={"to_v": 2})
    adapted = get_peft_model(copy.deepcopy(bare), config)
    model, adapter, file = folder / "model", folder / "adapter", folder / "lora.safetensors"
    shutil.copytree(GOLDEN / golden, model)
    shutil.rmtree(model / "unet")
    bare.save_pretrained(model / "unet")
    adapted.save_pretrained(adapter)
    options = ["--adapter", adapter, "--to", "kohya", "--model", model, "--output", file]
    subprocess.run([temper, "convert", *options], check=True)
    expected, before = output(adapted), output(bare)
    good = report(f"{name}, diffusers", by_diffusers(pipeline, file), expected, before)
    # Files for XL have the original names of modules, which LyCORIS looks for in a UNet of the original code.
    if name == "SDXL":
        return good
    return report(f"{name}, LyCORIS", by_lycoris(bare, file), expected, before) and good


def main(temper):
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        good = [
            check("SD 1.x", "pipeline", sd1(), temper, pathlib.Path(one)),
            check("SDXL", "pipeline_sdxl", sdxl(), temper, pathlib.Path(two)),
        ]
    return 0 if all(good) else 1


sys.exit(main(sys.argv[1]))
