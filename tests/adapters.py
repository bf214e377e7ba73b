"""Adapters of random numbers, written without the package, and what a model with one must compute.

Everything is in transformers' names and row order, so that a wrong permutation shows.
"""

import json
from pathlib import Path

import checkpoints
import mlx.core as mx
import numpy as np

RANK, SCALE = 3, 2.5
PROJECTOR = ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2")


def adapted(folder: Path, *, form: str, dora: bool = False, **how) -> tuple[Path, Path]:
    """An adapter folder, and transformers' folder of the model into whose weights it was added.

    Arguments:
        form: "mlx" or "peft".
        how: as for `checkpoints.make_hf`.
    """
    merged = checkpoints.make_hf(folder / "merged", **how)
    params = checkpoints.official_params(text=how.get("text"), vision=how.get("vision"))
    tensors = checkpoints.official_tensors(params, seed=how.get("seed", 0))
    weights = checkpoints.hf_tensors(tensors, params)
    stored = {}
    for name, weight in list(weights.items()):
        module = name.removesuffix(".weight")
        if not (".layers." in name and "language_model" in name and weight.ndim == 2) and (
            module not in PROJECTOR
        ):
            continue
        outputs, inputs = weight.shape
        state = np.random.RandomState([5, len(stored)])
        a = (0.1 * state.standard_normal((RANK, inputs))).astype(np.float32)
        b = (0.1 * state.standard_normal((outputs, RANK))).astype(np.float32)
        m = (1 + state.random_sample(outputs)).astype(np.float32) if dora else None
        changed = weight + SCALE * b @ a
        if m is not None:
            changed *= (m / np.linalg.norm(changed, axis=1))[:, None]
        weights[name] = changed
        stored |= _tensors(module, a, b, m, form)
    checkpoints.write_checkpoint(merged, "model", weights)
    return _write(folder / "adapter", stored, form, dora), merged


def _tensors(module, a, b, m, form) -> dict[str, np.ndarray]:
    if form == "mlx":
        found = {f"{module}.lora_a": a.T, f"{module}.lora_b": b.T, f"{module}.m": m}
    else:
        at = f"base_model.model.{module}"
        found = {
            f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b, f"{at}.lora_magnitude_vector": m
        }  # fmt: skip
    return {name: np.ascontiguousarray(x) for name, x in found.items() if x is not None}


def _write(folder, stored, form, dora) -> Path:
    folder.mkdir(parents=True)
    name = "adapters.safetensors" if form == "mlx" else "adapter_model.safetensors"
    checkpoints.write_safetensors(folder / name, stored)
    settings = (
        {
            "fine_tune_type": "dora" if dora else "lora",
            "num_layers": 99,
            "lora_parameters": {"rank": RANK, "scale": SCALE, "dropout": 0.0},
        }
        if form == "mlx"
        else {"peft_type": "LORA", "r": RANK, "lora_alpha": SCALE * RANK, "use_dora": dora}
    )
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def stored(folder: Path) -> dict[str, mx.array]:
    """The tensors of an adapter folder."""
    (file,) = folder.glob("*.safetensors")
    return dict(mx.load(str(file)))
