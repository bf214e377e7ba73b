"""The beginning of the published 12B's files: all names and shapes, and no weights to speak of."""

import json

import numpy as np
from checkpoints import official_shapes

PARAMS = {
    "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32,
    "n_kv_heads": 8, "norm_eps": 1e-5, "rope_theta": 1e9, "vocab_size": 131072,
    "vision_encoder": {
        "hidden_size": 1024, "num_channels": 3, "image_size": 1024, "patch_size": 16,
        "rope_theta": 1e4, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_token_id": 10,
    },
}  # fmt: skip


def weights(shapes=None, *, first=0x3F80):
    """A safetensors file in bfloat16 that breaks off after some numbers, each of these bits."""
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in (shapes or official_shapes(PARAMS)).items():
        end = place + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + np.full(10_000, first, "<u2").tobytes()


def repository(data=None):
    """{file name: bytes} as the hub's repository has them."""
    return {
        "params.json": json.dumps(PARAMS).encode(),
        "tekken.json": b"{}",
        "consolidated.safetensors": data or weights(),
    }
