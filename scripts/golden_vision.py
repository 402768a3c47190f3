"""Golden vectors of image encoders and the perceptual distance: tiny random models from fixed seeds.

    python -m venv .venv && .venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors
    .venv/bin/python scripts/golden_vision.py tests/golden/vision

`clip` and `dino` are what transformers writes with save_pretrained. `lpips_alex` and `lpips_vgg` are one safetensors file
each in the layout that Temper reads: `features.N.*` as torchvision names them, `linK.model.1.weight` as the lpips package
does. Their expected distances come from the plain torch functions below, written from the paper (arXiv 1801.03924, eq. 1).
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel


def randomise(model, seed):
    """Every matrix N(0, 1/fan_in), norms 1 + 0.1 n, biases and vectors 0.1 n."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2 and not name.endswith(("cls_token", "position_embeddings")):
                fan_in = parameter[0].numel()
                parameter.copy_(noise / fan_in**0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.dim() > 0:
                parameter.copy_(0.1 * noise)
    return model.eval()


def write(folder, seed, tensors):
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / "io.safetensors", {"format": "pt"})
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    (folder / "case.json").write_text(json.dumps({"seed": seed, "versions": versions}, indent=1) + "\n")


def clip(root):
    folder, seed = root / "clip", 3100
    side = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, projection_dim=24)
    text = dict(side, vocab_size=61, max_position_embeddings=12, bos_token_id=59, eos_token_id=60, pad_token_id=60)
    vision = dict(side, image_size=20, patch_size=5)
    model = randomise(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)), seed)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed + 1)
    pixels = torch.randn(2, 3, 20, 20, generator=generator)
    ids = torch.randint(0, 59, (2, 10), generator=generator)
    ids[:, 0], ids[0, 6:], ids[1, 9] = 59, 60, 60
    out = model(input_ids=ids, pixel_values=pixels)
    seen = model.vision_model(pixel_values=pixels)
    write(folder, seed, {
        "input_ids": ids, "pixel_values": pixels,
        "image_state": seen.last_hidden_state, "image_pooled": seen.pooler_output,
        # CLIPModel divides its embeddings by their length; the projections are recomputed to have both.
        "image_embeds": model.visual_projection(seen.pooler_output),
        "text_embeds": model.text_projection(model.text_model(input_ids=ids).pooler_output),
        "image_unit": out.image_embeds, "text_unit": out.text_embeds,
    })


def dino(root):
    folder, seed = root / "dino", 3200
    config = ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                       image_size=20, patch_size=5, layer_norm_eps=1e-12)
    model = randomise(ViTModel(config), seed)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed + 1)
    pixels = torch.randn(2, 3, 20, 20, generator=generator)
    other = torch.randn(1, 3, 35, 25, generator=generator)
    write(folder, seed, {
        "pixel_values": pixels, "last_hidden_state": model(pixels).last_hidden_state,
        "other_pixel_values": other,
        "other_last_hidden_state": model(other, interpolate_pos_encoding=True).last_hidden_state,
    })


# Index in `features`, channels, kernel, stride, padding; "P" is a max pooling of kernel and stride, "T" a tap after ReLU.
ALEX = [(0, 8, 11, 4, 2), "T", ("P", 3, 2), (3, 12, 5, 1, 2), "T", ("P", 3, 2), (6, 16, 3, 1, 1), "T",
        (8, 12, 3, 1, 1), "T", (10, 12, 3, 1, 1), "T"]
VGG = [(0, 4, 3, 1, 1), (2, 4, 3, 1, 1), "T", ("P", 2, 2), (5, 6, 3, 1, 1), (7, 6, 3, 1, 1), "T", ("P", 2, 2),
       (10, 8, 3, 1, 1), (12, 8, 3, 1, 1), (14, 8, 3, 1, 1), "T", ("P", 2, 2),
       (17, 8, 3, 1, 1), (19, 8, 3, 1, 1), (21, 8, 3, 1, 1), "T", ("P", 2, 2),
       (24, 8, 3, 1, 1), (26, 8, 3, 1, 1), (28, 8, 3, 1, 1), "T"]


def features(plan, weights, x):
    """Activations at the taps."""
    taps = []
    for step in plan:
        if step == "T":
            taps.append(x)
        elif step[0] == "P":
            x = F.max_pool2d(x, step[1], step[2])
        else:
            index, _, _, stride, padding = step
            x = F.relu(F.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"],
                                stride=stride, padding=padding))
    return taps


def distance(plan, weights, a, b):
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    total = torch.zeros(a.shape[0])
    pairs = zip(features(plan, weights, (a - shift) / scale), features(plan, weights, (b - shift) / scale))
    for layer, (x, y) in enumerate(pairs):
        x, y = (f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for f in (x, y))
        weighted = (x - y).pow(2) * weights[f"lin{layer}.model.1.weight"]
        total = total + weighted.sum(1).mean((1, 2))
    return total


def lpips(root, name, plan, size, seed):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weights, channels, layer = {}, 3, 0
    for step in plan:
        if step == "T":
            weights[f"lin{layer}.model.1.weight"] = torch.rand(1, channels, 1, 1, generator=generator)
            layer += 1
        elif step[0] != "P":
            index, out, kernel = step[:3]
            fan_in = channels * kernel * kernel
            weights[f"features.{index}.weight"] = torch.randn(out, channels, kernel, kernel, generator=generator) * (2 / fan_in) ** 0.5
            weights[f"features.{index}.bias"] = 0.1 * torch.randn(out, generator=generator)
            channels = out
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    a, b = (torch.rand(2, 3, *size, generator=generator) * 2 - 1 for _ in range(2))
    write(folder, seed, {"a": a, "b": b, "distance": distance(plan, weights, a, b)})


def main():
    root = pathlib.Path(sys.argv[1])
    torch.manual_seed(0)
    print("torch", torch.__version__, "transformers", transformers.__version__)
    clip(root)
    dino(root)
    lpips(root, "lpips_alex", ALEX, (40, 47), 3300)
    lpips(root, "lpips_vgg", VGG, (20, 18), 3400)


main()
