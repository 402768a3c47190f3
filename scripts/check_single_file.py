"""Checks the tables of models/tests/single_file.rs against the converter of diffusers.

    .venv/bin/python scripts/check_single_file.py      # torch 2.15.0, diffusers 0.42.1, transformers 5.23.0, safetensors

Renames the tiny golden models to single files by the tables of the Rust test, lets diffusers convert them back, and compares
names and values with the originals. Prints one line a model; exits with 1 when one differs.
"""

import json
import pathlib
import re
import sys

import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
SOURCE = (ROOT / "models" / "tests" / "single_file.rs").read_text()


def table(name):
    body = re.search(rf"const {name}: .*?= \[(.*?)\n\];", SOURCE, re.S).group(1)
    return re.findall(r'\(\s*"([^"]+)",\s*"([^"]+)",?\s*\)', body)


def replaced(name, pairs):
    for module, old in pairs:
        if name.startswith(module + "."):
            return old, name[len(module) + 1:]
    return None


def report(what, converted, expected):
    same = set(converted) == set(expected)
    same = same and all(torch.equal(converted[k].reshape(expected[k].shape), expected[k]) for k in expected)
    print(what, "agrees" if same else f"differs: {sorted(set(converted) ^ set(expected))[:5]}")
    return same


def unet(case):
    folder = GOLDEN / "diffusion" / case
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    attends = any(name.startswith("up_blocks.0.attentions") for name in tensors)
    upsampler = [("up_blocks.0.upsamplers.0.conv", "output_blocks.1.2.conv" if attends else "output_blocks.1.1.conv")]
    renamed = {}
    for name, tensor in tensors.items():
        module, rest = replaced(name, table("UNET")) or replaced(name, table("UNET_UP")) or replaced(name, upsampler)
        if ".resnets." in name:
            rest = ".".join(replaced(rest, table("RESNET")))
        renamed[f"model.diffusion_model.{module}.{rest}"] = tensor
    config = json.loads((folder / "config.json").read_text())
    return report(case, single_file_utils.convert_ldm_unet_checkpoint(renamed, config), tensors)


def vae():
    folder = GOLDEN / "diffusion" / "vae"
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    renamed = {}
    for name, tensor in tensors.items():
        module, rest = replaced(name, table("VAE"))
        if module.endswith("attn_1"):
            rest = ".".join(replaced(rest, table("ATTENTION")))
            tensor = tensor[:, :, None, None] if tensor.dim() == 2 else tensor
        else:
            rest = rest.replace("conv_shortcut", "nin_shortcut")
        renamed[f"first_stage_model.{module}.{rest}"] = tensor
    config = json.loads((folder / "config.json").read_text())
    return report("vae", single_file_utils.convert_ldm_vae_checkpoint(renamed, config), tensors)


def open_clip():
    tensors = {k: v for k, v in load_file(GOLDEN / "vision" / "clip" / "model.safetensors").items() if k.startswith("text_")}
    prefix, read = "conditioner.embedders.1.model.", lambda name: tensors["text_model." + name]
    renamed = {
        prefix + "token_embedding.weight": read("embeddings.token_embedding.weight"),
        prefix + "positional_embedding": read("embeddings.position_embedding.weight"),
        prefix + "text_projection": tensors["text_projection.weight"].T.contiguous(),
    }
    # The converter splits fused projections by the rows of the text projection: the model's own width.
    for part in ("weight", "bias"):
        renamed[f"{prefix}ln_final.{part}"] = read(f"final_layer_norm.{part}")
        for layer in range(2):
            old, new = f"encoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}"
            for module, name in table("LAYER"):
                renamed[f"{new}.{name}.{part}"] = read(f"{old}.{module}.{part}")
            fused = [read(f"{old}.self_attn.{p}_proj.{part}") for p in "qkv"]
            renamed[f"{new}.attn.in_proj_{part}"] = torch.cat(fused)
    config = CLIPTextConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                            vocab_size=61, max_position_embeddings=12, projection_dim=24)
    model = CLIPTextModelWithProjection(config)
    return report("open_clip", single_file_utils.convert_open_clip_checkpoint(model, renamed, prefix=prefix), tensors)


checks = [unet(case) for case in ("unet_sd15", "unet_sd2", "unet_sdxl")] + [vae(), open_clip()]
sys.exit(0 if all(checks) else 1)
