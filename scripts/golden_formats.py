"""Writes tests/golden/diffusion/formats: LoRA files as diffusers saves them, of a tiny Stable Diffusion.

    pip install torch==2.15.0 diffusers==0.42.1 peft==0.21.2 transformers==5.23.0
    python scripts/golden_formats.py PIPELINE

PIPELINE is a directory with `unet` and `text_encoder`. `pytorch_lora_weights.safetensors` is what `save_lora_weights` writes, with
its metadata; `merged.safetensors` holds the weights of two layers after PEFT merged the adapter, and what they were before.
"""

import pathlib
import sys

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextModel

OUT = pathlib.Path(__file__).parent.parent / "tests/golden/diffusion/formats"
LAYERS = ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.attentions.0.proj_in"]

torch.manual_seed(0)
unet = UNet2DConditionModel.from_pretrained(f"{sys.argv[1]}/unet")
text_encoder = CLIPTextModel.from_pretrained(f"{sys.argv[1]}/text_encoder")
before = {name: unet.get_submodule(name).weight.detach().clone() for name in LAYERS}
of_unet = LoraConfig(
    r=2, lora_alpha=6, init_lora_weights=False, target_modules=["attn1.to_q", "attn2.to_out.0", "proj_in"],
    rank_pattern={"attn1.to_q": 3}, alpha_pattern={"proj_in": 5}, use_rslora=True,
)
of_text = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["q_proj"])
unet.add_adapter(of_unet)
text_encoder.add_adapter(of_text)
StableDiffusionPipeline.save_lora_weights(
    OUT,
    unet_lora_layers=get_peft_model_state_dict(unet),
    text_encoder_lora_layers=get_peft_model_state_dict(text_encoder),
    unet_lora_adapter_metadata=of_unet.to_dict(),
    text_encoder_lora_adapter_metadata=of_text.to_dict(),
)
# The library orders the texts of a header at random; the fixture is the one in which they are sorted.
file = OUT / "pytorch_lora_weights.safetensors"
while True:
    with safe_open(file, "pt") as opened:
        tensors, texts = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()
    raw = file.read_bytes()
    if raw.index(b'"format"') < raw.index(b'"lora_adapter_metadata"'):
        break
    save_file(tensors, file, texts)
unet.fuse_lora()
after = {name: unet.get_submodule(name).get_base_layer().weight.detach() for name in LAYERS}
merged = {f"before.{name}": weight for name, weight in before.items()}
merged |= {f"after.{name}": weight.contiguous() for name, weight in after.items()}
save_file(merged, OUT / "merged.safetensors")
