"""Rewrites the f32 tensors of a safetensors file as f16, in place: how the networks in assets/tiny-diffusion were made small.

python3 scripts/to_half.py FILE
"""

import json
import pathlib
import struct
import sys


def main(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    written, out = {}, bytearray()
    for name, info in header.items():
        if name == "__metadata__":
            written[name] = info
            continue
        start, end = info["data_offsets"]
        part = data[start:end]
        if info["dtype"] == "F32":
            count = len(part) // 4
            part = struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", part))
            info["dtype"] = "F16"
        info["data_offsets"] = [len(out), len(out) + len(part)]
        written[name] = info
        out += part
    text = json.dumps(written, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + out)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
