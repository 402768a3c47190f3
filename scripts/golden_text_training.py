"""Writes tests/golden/diffusion/text_training/curves.json: text encoders trained together with the UNet, by PyTorch, diffusers and PEFT.

Run: TEMPER_DRAWS=DIR cargo test --test diffusion_runs -- --ignored write_what_the_steps_see
     python scripts/golden_text_training.py DIR
Needs torch, diffusers, transformers, peft, safetensors. The first command writes what each step sees (noisy latents, noise, timestep),
the second trains on it: AdamW, learning rate 2e-3, weight decay 0.01, all gradients together clipped at 1. One row a step.

SDXL as its training scripts of diffusers do: states before the last layer of both encoders side by side, pooled text of the second,
both in the graph. Parameters without a gradient (the last layer of the first encoder) stay as they are.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import OFTConfig, get_peft_model
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

GOLDEN = Path(__file__).resolve().parent.parent / "tests/golden/diffusion"
PROMPT = "a photo of sks dog"
TARGETS = dict(unet=["to_q", "to_k", "to_v", "to_out.0"], text=["q_proj", "k_proj", "v_proj", "out_proj"])


def load(kind, directory):
    files = sorted(directory.glob("*.fp16.safetensors"))
    return kind.from_pretrained(directory, variant="fp16" if files else None, torch_dtype=torch.float32).eval()


def adapt(model, part):
    config = OFTConfig(oft_block_size=2, r=0, use_cayley_neumann=False, target_modules=TARGETS[part])
    return get_peft_model(model, config)


def encode(encoders, tokenizers):
    hidden, pooled = [], None
    for encoder, tokenizer in zip(encoders, tokenizers):
        limit = encoder.config.max_position_embeddings
        ids = tokenizer(PROMPT, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
        output = encoder(input_ids=ids, output_hidden_states=True)
        hidden.append(output.hidden_states[-2] if len(encoders) > 1 else output.last_hidden_state)
        pooled = output[0]
    return torch.cat(hidden, -1), pooled


def curve(directory, draws, method):
    xl = (directory / "text_encoder_2").is_dir()
    kinds = [("text_encoder", CLIPTextModel)] + [("text_encoder_2", CLIPTextModelWithProjection)] * xl
    unet = load(UNet2DConditionModel, directory / "unet")
    encoders = [load(kind, directory / name) for name, kind in kinds]
    tokenizers = [CLIPTokenizer.from_pretrained(directory / name.replace("text_encoder", "tokenizer")) for name, _ in kinds]
    if method == "oft":
        unet, encoders = adapt(unet, "unet"), [adapt(encoder, "text") for encoder in encoders]
    parameters = [p for model in (unet, *encoders) for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
    losses, norms = [], []
    for sample, noise, timestep, time_ids in zip(*(draws[key] for key in ("sample", "noise", "timesteps", "time_ids"))):
        hidden, pooled = encode(encoders, tokenizers)
        added = dict(text_embeds=pooled, time_ids=time_ids[None]) if xl else None
        prediction = unet(sample[None], timestep[None], hidden, added_cond_kwargs=added).sample
        loss = torch.nn.functional.mse_loss(prediction, noise[None])
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    return dict(losses=losses, grad_norms_before_clip=norms)


draws = Path(sys.argv[1])
curves = {
    name: {method: curve(GOLDEN / name, load_file(draws / f"{name}.safetensors"), method) for method in ("oft", "full")}
    for name in ("pipeline", "pipeline_sdxl")
}
output = GOLDEN / "text_training"
output.mkdir(exist_ok=True)
(output / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
