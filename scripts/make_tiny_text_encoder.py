"""Writes assets/tiny-diffusion/text_encoder: a CLIP text encoder with random weights, for runs that need no download.

Untrained, it still gives every prompt its own states, which is all that a U-Net trained from scratch needs to tell a few prompts
apart. Needs nothing but Python: python3 scripts/make_tiny_text_encoder.py
"""

import json
import pathlib
import random
import struct

FOLDER = pathlib.Path(__file__).parent.parent / "assets/tiny-diffusion"
WIDTH, INNER, LAYERS, HEADS, POSITIONS, SEED = 32, 64, 2, 4, 77, 5


def tensors(vocabulary):
    """Names, shapes and deviations; a deviation of None is a norm's weight (1), of 0 a bias."""
    yield "text_model.embeddings.token_embedding.weight", [vocabulary, WIDTH], 0.5
    yield "text_model.embeddings.position_embedding.weight", [POSITIONS, WIDTH], 0.1
    for layer in range(LAYERS):
        at = f"text_model.encoder.layers.{layer}."
        for name in ("layer_norm1", "layer_norm2"):
            yield f"{at}{name}.weight", [WIDTH], None
            yield f"{at}{name}.bias", [WIDTH], 0
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{at}self_attn.{name}.weight", [WIDTH, WIDTH], WIDTH**-0.5
            yield f"{at}self_attn.{name}.bias", [WIDTH], 0
        for name, outputs, inputs in (("fc1", INNER, WIDTH), ("fc2", WIDTH, INNER)):
            yield f"{at}mlp.{name}.weight", [outputs, inputs], inputs**-0.5
            yield f"{at}mlp.{name}.bias", [outputs], 0
    yield "text_model.final_layer_norm.weight", [WIDTH], None
    yield "text_model.final_layer_norm.bias", [WIDTH], 0


def main():
    vocabulary = json.loads((FOLDER / "tokenizer/vocab.json").read_text(encoding="utf-8"))
    draw = random.Random(SEED)
    header, data = {"__metadata__": {"format": "pt"}}, bytearray()
    for name, shape, deviation in sorted(tensors(len(vocabulary))):
        count = 1
        for size in shape:
            count *= size
        values = [1.0 if deviation is None else draw.gauss(0, deviation) for _ in range(count)]
        start = len(data)
        data += struct.pack(f"<{count}e", *values)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    folder = FOLDER / "text_encoder"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    config = {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "hidden_act": "quick_gelu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": POSITIONS,
        "model_type": "clip_text_model",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": vocabulary["<|endoftext|>"],
        "projection_dim": WIDTH,
        "vocab_size": len(vocabulary),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
