"""Makes the tokenizer of the tiny diffusion model from the prompts of DreamBooth.

    python3 scripts/make_tiny_tokenizer.py assets/dreambooth/prompts.json assets/tiny-diffusion/tokenizer

It has CLIP's structure (256 bytes, 256 bytes that end a word, merges, start, end) and at most 1024 ids; 834 today,
when every word is whole. Words are those of the prompts with every class and a few subject tokens; of pairs that are
equally frequent the first in the order of code points is merged. No third-party package is needed, and the result is
always the same.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

SIZE = 1024
TOKENS = ["sks", "qwe", "zwx", "olis"]
START, END = "<|startoftext|>", "<|endoftext|>"
EXTRA = """a photo of a photograph of an image of a picture of a painting of a drawing of a toy duck a yellow duck toy
two dogs a cat a red bag a small puppy in a park on a sofa at home in front of a wall close up portrait black white
grey brown blue green orange background outdoors indoors day night light dark high quality low quality blurry"""


def byte_characters():
    """The printable character that stands for each byte, as in GPT-2."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + number) for number, byte in enumerate(others)})
    return table


def words(prompts):
    """How often each word occurs in the prompts."""
    classes = sorted({subject["class"] for subject in prompts["subjects"].values()})
    templates = prompts["object_prompts"] + prompts["live_prompts"]
    templates += [prompts["instance_prompt"], prompts["class_prompt"]] * 20
    lines = [
        template.replace("{token}", token).replace("{class}", kind)
        for template in templates
        for token in TOKENS
        for kind in classes
    ]
    lines += [EXTRA] * 200
    return Counter(word for line in lines for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", line.lower()))


def learn(counts, number):
    """The most frequent pairs, merged one after another until there are `number` or none is left."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    merges = []
    while len(merges) < number:
        pairs = Counter()
        for word, symbols in split.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, symbols in split.items():
            joined, at = [], 0
            while at < len(symbols):
                if tuple(symbols[at : at + 2]) == best:
                    joined.append("".join(best))
                    at += 2
                else:
                    joined.append(symbols[at])
                    at += 1
            split[word] = joined
    return merges


def main():
    source, target = map(Path, sys.argv[1:3])
    table = byte_characters()
    alphabet = [table[byte] for byte in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    alphabet += [character for character in table.values() if character not in alphabet]
    merges = learn(words(json.loads(source.read_text())), SIZE - 2 * 256 - 2)
    vocabulary = alphabet + [character + "</w>" for character in alphabet]
    vocabulary += ["".join(pair) for pair in merges] + [START, END]
    target.mkdir(parents=True, exist_ok=True)
    ids = {token: number for number, token in enumerate(vocabulary)}
    assert len(ids) == len(vocabulary), "two merges give the same token"
    (target / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False, separators=(",", ":")) + "\n")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (target / "merges.txt").write_text("\n".join(lines) + "\n")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (target / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{len(ids)} ids, {len(merges)} merges")


main()
