"""Writes tests/golden/diffusion/pipeline_sdxl: a tiny SDXL pipeline in half precision, and what diffusers draws with it.

Run: python scripts/golden_sdxl_pipeline.py OUTPUT_DIR TOKENIZER_DIR
Needs torch, diffusers, transformers, safetensors. Random weights from fixed seeds, computed in float32 on the CPU.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

output, tokenizer_dir = map(Path, sys.argv[1:3])
torch.manual_seed(7300)


def text_config(width, layers, act, projection):
    return CLIPTextConfig(
        vocab_size=99, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=12, hidden_act=act, projection_dim=projection, bos_token_id=97, eos_token_id=98, pad_token_id=1,
    )


def rounded(model):
    """Weights that half precision holds exactly, large enough that texts differ."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5)
        parameter.data = parameter.data.half().float()
    return model.eval()


unet = rounded(UNet2DConditionModel(
    sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(2, 4),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=20, use_linear_projection=True, transformer_layers_per_block=(1, 1),
    addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=58,
))
vae = rounded(AutoencoderKL(
    block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, sample_size=16, scaling_factor=0.13025,
    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
))
first = rounded(CLIPTextModel(text_config(8, 2, "quick_gelu", 8)))
second = rounded(CLIPTextModelWithProjection(text_config(12, 3, "gelu", 10)))
tokenizer = CLIPTokenizer.from_pretrained(tokenizer_dir)
second_tokenizer = CLIPTokenizer.from_pretrained(tokenizer_dir, pad_token="!")
scheduler = EulerDiscreteScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading",
)
pipeline = StableDiffusionXLPipeline(
    vae=vae, text_encoder=first, text_encoder_2=second, tokenizer=tokenizer, tokenizer_2=tokenizer, unet=unet,
    scheduler=scheduler, force_zeros_for_empty_prompt=True, add_watermarker=False,
)
pipeline.set_progress_bar_config(disable=True)

latents = torch.randn(1, 4, 12, 8)
found = {"latents": latents}
common = dict(height=24, width=16, num_inference_steps=3, guidance_scale=5.0)
cases = {
    "plain": dict(prompt="a photo of sks dog"),
    "negative": dict(prompt="a red cat", negative_prompt="dog", guidance_rescale=0.7, clip_skip=1),
}
for name, case in cases.items():
    for kind, key in (("latent", "denoised"), ("pt", "image01")):
        image = pipeline(**case, **common, latents=latents.clone(), output_type=kind).images
        found[f"{name}.{key}"] = image.float()
hidden, negative, pooled, negative_pooled = pipeline.encode_prompt("a photo of sks dog", num_images_per_prompt=1)
found |= {"hidden": hidden, "pooled": pooled}
assert negative.abs().max() == 0 and negative_pooled.abs().max() == 0

shutil.rmtree(output, ignore_errors=True)
pipeline.to(torch.float16).save_pretrained(output, variant="fp16")
for part in ("tokenizer", "tokenizer_2"):
    shutil.rmtree(output / part, ignore_errors=True)
    shutil.copytree(tokenizer_dir, output / part)
save_file({key: value.contiguous() for key, value in found.items()}, output / "io.safetensors")
(output / "case.json").write_text(json.dumps({"common": common, "cases": cases}, indent=1) + "\n")
