"""Golden vectors of image encoders and the perceptual distance: tiny random models from fixed seeds.

    python -m venv .venv && .venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors pillow numpy
    .venv/bin/python scripts/golden_vision.py tests/golden/vision

`clip` and `dino` are what transformers writes with save_pretrained. `lpips_alex` and `lpips_vgg` are one safetensors file
each in the layout that Temper reads: `features.N.*` as torchvision names them, `linK.model.1.weight` as the lpips package
does. Their expected distances come from the plain torch functions below, written from the paper (arXiv 1801.03924, eq. 1).
`subject` holds small pictures and the figures that these models give of them, written plainly from their definitions.
"""

import itertools
import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel


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


def tokenizer(folder):
    """A tokenizer of CLIP's kind with the 61 tokens that the tiny text encoder knows."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = ["o g</w>", "d og</w>", "o f</w>", "o n</w>", "r e", "re d</w>", "c a"]
    tokens = letters + [letter + "</w>" for letter in letters] + [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == 61
    (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(tokens)}) + "\n")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 12}) + "\n")


PROMPTS = ["a red dog", "dog on a cat"]


def smooth(generator, size):
    """Colours that change slowly, with some grain."""
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
    grain = generator.integers(-12, 13, picture.shape)
    return Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8))


def prepared(picture, shorter, side, mean, std):
    """As CLIP's preprocessing: shorter side, bicubic, the middle, normalised."""
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((width * shorter // short, height * shorter // short), Image.Resampling.BICUBIC)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    pixels = np.asarray(picture.crop((left, top, left + side, top + side))).astype(np.float32) / 255
    pixels = (pixels - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def fitted(picture, size):
    """Scaled so that it covers the size, and cut to the middle, in [-1, 1]."""
    (width, height), (to_width, to_height) = picture.size, size
    if width * to_height >= height * to_width:
        picture = picture.resize((width * to_height // height, to_height), Image.Resampling.BILINEAR)
    else:
        picture = picture.resize((to_width, height * to_width // width), Image.Resampling.BILINEAR)
    left, top = (picture.width - to_width) // 2, (picture.height - to_height) // 2
    picture = picture.crop((left, top, left + to_width, top + to_height))
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def of_mean(values):
    n = len(values)
    return {"mean": float(np.mean(values)), "standard_error": float(np.std(values, ddof=1) / n**0.5), "n": n}


def of_pairs(values):
    """Mean over pairs {(i, j): value} and its jackknife over pictures."""
    pictures = sorted({picture for pair in values for picture in pair})
    without = [np.mean([value for pair, value in values.items() if picture not in pair]) for picture in pictures]
    n = len(pictures)
    error = ((n - 1) / n * np.sum((np.array(without) - np.mean(without)) ** 2)) ** 0.5
    return {"mean": float(np.mean(list(values.values()))), "standard_error": float(error), "n": n, "pairs": len(values)}


def subject(root):
    folder, seed = root / "subject", 3500
    generator = np.random.default_rng(seed)
    sizes = {"generated": [(40, 36)] * 5, "real": [(48, 40), (36, 52), (40, 36)]}
    pictures = {kind: [smooth(generator, size) for size in sizes[kind]] for kind in sizes}
    prompts = [PROMPTS[0]] * 3 + [PROMPTS[1]] * 2
    for kind in pictures:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for at, (picture, prompt) in enumerate(zip(pictures["generated"], prompts)):
        # Three ways to say the prompt: the recipe of `temper sample`, a plain text in the PNG, a file beside it.
        text = PngImagePlugin.PngInfo()
        if at < 3:
            text.add_text("temper", json.dumps({"prompt": prompt, "seed": at}))
        elif at == 3:
            text.add_text("prompt", prompt)
        else:
            (folder / "generated" / f"{at}.txt").write_text(prompt + "\n")
        picture.save(folder / "generated" / f"{at}.png", pnginfo=text)
    for at, picture in enumerate(pictures["real"]):
        picture.save(folder / "real" / f"{at}.png")

    clip_model, dino_model = CLIPModel.from_pretrained(root / "clip").eval(), ViTModel.from_pretrained(root / "dino").eval()
    weights = load_file(root / "lpips_alex" / "model.safetensors")
    words = CLIPTokenizer.from_pretrained(root / "clip")
    clip_numbers = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    dino_numbers = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    unit = lambda rows: [row / row.norm() for row in rows]
    with torch.no_grad():
        clip_of = lambda picture: clip_model.visual_projection(
            clip_model.vision_model(pixel_values=prepared(picture, 20, 20, *clip_numbers)).pooler_output)[0].double()
        dino_of = lambda picture: dino_model(prepared(picture, 22, 20, *dino_numbers)).last_hidden_state[0, 0].double()
        clips = {kind: unit([clip_of(picture) for picture in some]) for kind, some in pictures.items()}
        dinos = {kind: unit([dino_of(picture) for picture in some]) for kind, some in pictures.items()}
        ids = words(prompts, padding="max_length", max_length=12)["input_ids"]
        texts = clip_model.text_model(input_ids=torch.tensor(ids)).pooler_output
        texts = unit(clip_model.text_projection(texts).double())
        size = pictures["generated"][0].size
        apart = lambda a, b: float(distance(ALEX, weights, fitted(a, size), fitted(b, size)))
        pairs = {(i, j): apart(pictures["generated"][i], pictures["generated"][j])
                 for i, j in itertools.combinations(range(5), 2) if prompts[i] == prompts[j]}
        real = list(itertools.combinations(range(3), 2))
        real_pairs = {(i, j): apart(pictures["real"][i], pictures["real"][j]) for i, j in real}
    cosines = lambda of: [np.mean([float(a @ b) for b in of["real"]]) for a in of["generated"]]
    rows = {"clip_i": cosines(clips), "dino": cosines(dinos),
            "clip_t": [float(image @ text) for image, text in zip(clips["generated"], texts)]}
    expected = {
        "scores": {name: of_mean(values) for name, values in rows.items()} | {"lpips": of_pairs(pairs)},
        "real": {"clip_i": of_pairs({(i, j): float(clips["real"][i] @ clips["real"][j]) for i, j in real}),
                 "dino": of_pairs({(i, j): float(dinos["real"][i] @ dinos["real"][j]) for i, j in real}),
                 "lpips": of_pairs(real_pairs)},
        "pictures": [{name: values[at] for name, values in rows.items()} | {"prompt": prompts[at]} for at in range(5)],
        "input_ids": ids,
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def main():
    root = pathlib.Path(sys.argv[1])
    torch.manual_seed(0)
    print("torch", torch.__version__, "transformers", transformers.__version__)
    clip(root)
    tokenizer(root / "clip")
    dino(root)
    lpips(root, "lpips_alex", ALEX, (40, 47), 3300)
    lpips(root, "lpips_vgg", VGG, (20, 18), 3400)
    subject(root)


main()
