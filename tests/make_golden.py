"""Makes the golden arrays: transformers (torch, float32, CPU) on small random checkpoints.

Run once, from the repository, in an environment with torch and transformers 5 (neither is a
dependency of the package or of its tests):

    python tests/make_golden.py

Images and token ids are mistral-common's own, so that only the model is transformers'. Greedy
tokens are kept only where the best logit leads by far more than the tolerance.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cases
import checkpoints
import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LlavaForConditionalGeneration,
    Mistral3ForConditionalGeneration,
)

GOLDEN = Path(__file__).parent / "golden"
LEAST_LEAD = 0.01  # of a greedy token over the runner-up; logits agree within 2e-3
ROWS_KEPT = 48  # of the tokens and patches of a case with more than LARGE tokens
LARGE = 120


def main() -> None:
    """Writes one npz a case."""
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        official = checkpoints.make_official(f"{folder}/official", seed=cases.SEED)
        hf = checkpoints.make_hf(f"{folder}/hf", seed=cases.SEED, tokenizer=None)
        model = LlavaForConditionalGeneration.from_pretrained(
            hf, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        check_settings(model.config)
        for name, messages in cases.CASES.items():
            save(name, run_case(model, official / "tekken.json", messages()))
        for name in cases.HEIRS:
            save(name, run_heir(f"{folder}/{name}", *cases.HEIRS[name]))
        long = checkpoints.make_hf(
            f"{folder}/long", text=cases.LONG_TEXT, vision=False, seed=cases.SEED, tokenizer=None
        )
        save("long", run_long(long))


def run_heir(folder, seed, text, messages) -> dict[str, np.ndarray]:
    """The same of a model that merges patches."""
    how = {"text": text, "vision": checkpoints.HEIR_VISION, "seed": seed}
    official = checkpoints.make_official(f"{folder}-official", tokenizer="tekken-v13", **how)
    model = Mistral3ForConditionalGeneration.from_pretrained(
        checkpoints.make_hf(f"{folder}-hf", tokenizer=None, **how),
        dtype=torch.float32,
        attn_implementation="eager",
    ).eval()
    embeddings = model.model.language_model.embed_tokens.weight
    tied = model.lm_head.weight.data_ptr() == embeddings.data_ptr()
    if tied != bool(text.get("tied_embeddings")) or model.config.vision_config.hidden_act != "silu":
        sys.exit(f"transformers read other settings from config.json: tied is {tied}")
    # Random tied embeddings say what they have just read, for ever.
    return run_case(model, official / "tekken.json", messages(), answers=not tied)


def check_settings(config) -> None:
    """Stops if transformers would compute something other than Pixtral."""
    seen = (
        config.vision_config.hidden_act,
        config.projector_hidden_act,
        config.vision_feature_layer,
        config.vision_feature_select_strategy,
        config.text_config.rms_norm_eps,
        config.text_config.rope_parameters["rope_theta"],
        config.vision_config.rope_parameters["rope_theta"],
        config.text_config.sliding_window,
    )
    if seen != ("silu", "gelu", -1, "full", 1e-5, 1e9, 1e4, None):
        sys.exit(f"transformers read other settings from config.json: {seen}")


def run_case(model, tokenizer_file, messages, answers: bool = True) -> dict[str, np.ndarray]:
    """Every critical point of one conversation; `answers` is whether it is gone on with."""
    tokens, images = cases.reference_tokens(tokenizer_file, messages)
    inputs = {"input_ids": torch.tensor([tokens])}
    if images:
        sizes = [image.shape[1:] for image in images]
        inputs["pixel_values"] = padded(images, sizes)
        inputs["image_sizes"] = torch.tensor(sizes)
    points = {"tokens": np.array(tokens, np.int32)}
    for i, image in enumerate(images):
        points[f"pixels_{i}"] = image
    with captured(model, points, [image.shape[1:] for image in images]):
        points["logits"] = model(**inputs).logits[0].numpy()
    if images and not np.array_equal(points["projector_input"], points["vision_2"]):
        sys.exit("the projector did not read the last vision layer")
    points.pop("projector_input", None)
    if answers:
        points["greedy"] = greedy(model, inputs)
    return thinned(points) if len(tokens) > LARGE else points


def padded(images, sizes) -> torch.Tensor:
    """Images of several sizes as the one batch that transformers takes."""
    height, width = np.max(sizes, axis=0)
    batch = np.zeros((len(images), 3, height, width), np.float32)
    for i, image in enumerate(images):
        batch[i, :, : image.shape[1], : image.shape[2]] = image
    return torch.from_numpy(batch)


class captured:
    """A context in which a forward pass writes its intermediate results into `points`."""

    def __init__(self, model, points: dict, sizes):
        self.model, self.points, self.sizes = model.model, points, sizes

    def __enter__(self):
        vision, decoder = self.model.vision_tower, self.model.language_model
        self.hooks = [
            vision.patch_conv.register_forward_hook(self._embedding),
            self._keep(vision.ln_pre, "ln_pre"),
            self._keep(self.model.multi_modal_projector, "projector", before="projector_input"),
        ]
        for i, layer in enumerate(vision.transformer.layers):
            self.hooks.append(self._keep(layer, f"vision_{i}"))
        for i, layer in enumerate(decoder.layers):
            first = "merged" if i == 0 else None
            self.hooks.append(self._keep(layer, f"decoder_{i}", before=first))

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()

    def _keep(self, module, name: str, before: str | None = None):
        def hook(_, inputs, output):
            if before:
                self.points[before] = inputs[0].squeeze(0).numpy().copy()
            output = output[0] if isinstance(output, tuple) else output
            self.points[name] = output.squeeze(0).numpy().copy()

        return module.register_forward_hook(hook)

    def _embedding(self, _, inputs, output):
        # The convolution runs on padded images: cut each back to its own patches.
        side = self.model.vision_tower.config.patch_size
        parts = [
            embedded[:, : height // side, : width // side].flatten(1).T
            for embedded, (height, width) in zip(output, self.sizes, strict=True)
        ]
        self.points["patch_embedding"] = torch.cat(parts).numpy()


def greedy(model, inputs) -> np.ndarray:
    """The greedy continuation, by transformers' own generation with its cache."""
    found = model.generate(
        **inputs,
        max_new_tokens=cases.GREEDY_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=11,
        attention_mask=torch.ones_like(inputs["input_ids"]),
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = found.sequences[0, inputs["input_ids"].shape[1] :].numpy().astype(np.int32)
    best = torch.stack(found.logits)[:, 0].topk(2).values
    lead = float((best[:, 0] - best[:, 1]).min())
    print(f"greedy {tokens.tolist()}: least lead {lead:.3f}")
    if lead < LEAST_LEAD or tokens.min() < checkpoints.TEKKEN_SPECIALS:
        sys.exit("a greedy token is too close a call, or special: change cases.SEED")
    return tokens


def thinned(points: dict) -> dict[str, np.ndarray]:
    """A deterministic subset of the rows of a large case; `_rows` say which."""
    tokens, patches = len(points["tokens"]), len(points["ln_pre"])
    state = np.random.RandomState(0)
    token_rows = np.sort(state.choice(tokens, ROWS_KEPT, replace=False))
    patch_rows = np.sort(state.choice(patches, ROWS_KEPT, replace=False))
    token_rows[-1], patch_rows[-1] = tokens - 1, patches - 1
    kept = {"token_rows": token_rows, "patch_rows": patch_rows}
    for name, values in points.items():
        if name in ("tokens", "greedy"):
            kept[name] = values
        elif name.startswith("pixels"):
            kept[name] = values[:, 5::61, 3::13]
        else:
            per_patch = name in ("patch_embedding", "ln_pre", "projector") or "vision" in name
            kept[name] = values[patch_rows if per_patch else token_rows]
    return kept


def run_long(folder) -> dict[str, np.ndarray]:
    """Logits of a few tokens far from the start, with exact angles and with float32 angles."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    points = {"tokens": cases.long_tokens().astype(np.int32)}
    for start in cases.LONG_STARTS:
        points[f"float32_{start}"] = long_logits(model, start)
    model.double()
    model.model.rotary_emb.forward = exact_angles(model.config)
    for start in cases.LONG_STARTS:
        points[f"exact_{start}"] = exact = long_logits(model, start)
        off = points[f"float32_{start}"] - exact
        print(f"{start}: torch float32 is off by {np.abs(off).max():.1e} / {off.std():.1e} rms")
    return points


def long_logits(model, start: int) -> np.ndarray:
    """Logits of the tokens behind the jump."""
    tokens = torch.tensor(cases.long_tokens())[None]
    # A mask of our own: transformers takes a jump in the positions for a packed batch otherwise.
    mask = torch.full((tokens.shape[1],) * 2, torch.finfo(model.dtype).min, dtype=model.dtype)
    logits = model(
        tokens,
        attention_mask=mask.triu(1)[None, None],
        position_ids=torch.tensor(cases.long_positions(start))[None],
    ).logits
    return logits[0, cases.LONG_PREFIX :].float().numpy()


def exact_angles(config):
    """Cosines and sines in float64: transformers rounds the angles to float32, always."""
    theta, width = config.rope_parameters["rope_theta"], config.head_dim
    frequencies = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)

    def forward(x, position_ids):
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    return forward


def save(name: str, points: dict[str, np.ndarray]) -> None:
    """Writes one case and says how large it is."""
    path = GOLDEN / f"{name}.npz"
    np.savez_compressed(path, **points)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, {len(points)} arrays")


if __name__ == "__main__":
    main()
