"""One safetensors file for Temper's LPIPS from the two published files.

    python scripts/convert_lpips.py alexnet-owt-7be5be79.pth lpips/weights/v0.1/alex.pth lpips-alex/model.safetensors

The first argument is torchvision's network (AlexNet or VGG-16), the second the linear heads that the lpips package carries.
Needs torch and safetensors.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file


def main(network, heads, output):
    tensors = {}
    for name, tensor in torch.load(network, map_location="cpu", weights_only=True).items():
        if name.startswith("features."):
            tensors[name] = tensor.float().contiguous()
    for name, tensor in torch.load(heads, map_location="cpu", weights_only=True).items():
        if name.startswith("lin"):
            tensors[name] = tensor.float().contiguous()
    pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, output, {"format": "pt"})
    print(f"{len(tensors)} tensors in {output}")


main(*sys.argv[1:])
