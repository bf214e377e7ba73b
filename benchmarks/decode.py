"""What would make a decode step faster? Fused projections and compiled steps beside the plain one.

    python benchmarks/decode.py [--width 1024] [--rounds 15]

A random decoder of Pixtral's shape, scaled (8 layers, float32 and 4 bits in groups of 64), decodes
one token after another from a context of 256. The variants take turns, so that whatever else the
machine does falls on all of them; medians, as shares of the plain step. Not part of the library:

- fused: one matrix for wq, wk and wv, and one for w1 and w3;
- compiled step: the whole step by `mx.compile`. Its shapes must not change, so that the KV cache is
  allocated in full, written at a position that is an array, and attended to under a mask.

All give the same logits (checked). On a CPU the clock counts this process's own seconds, which
other programs hardly lengthen; elsewhere it is the one on the wall. The first step, with what it
compiles, is printed too.
"""

import argparse
import statistics
import time
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

import pixtral_mlx as px
from pixtral_mlx.model.config import TextConfig
from pixtral_mlx.model.decoder import Decoder

CONTEXT, TOKENS = 256, 4
clock = time.process_time if mx.default_device() == mx.Device(mx.cpu) else time.perf_counter


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(
        f"MLX {mx.__version__}, {mx.default_device()}, float32 products in "
        f"{px.machine().float32_products}; {arguments.width} wide, 8 layers"
    )
    print("| weights | variant | of the plain step | in the rounds |")
    print("|---|---|---|---|")
    for bits in (None, 4):
        mx.random.seed(0)
        decoder = Decoder(text_config(arguments.width))
        if bits:
            nn.quantize(decoder, 64, bits)
        mx.eval(decoder.parameters())
        name = f"{bits} bits" if bits else "float32"
        for variant, shares in measure(decoder, arguments.rounds).items():
            spread = f"{min(shares):.2f} to {max(shares):.2f}"
            print(
                f"| {name} | {variant} | {statistics.median(shares):.2f} | {spread} |", flush=True
            )


def text_config(width: int) -> TextConfig:
    """Pixtral's decoder in small: four query heads to a KV head, FFN 2.75 times as wide."""
    return TextConfig(
        dim=width, n_layers=8, n_heads=width // 64, n_kv_heads=width // 256, head_dim=64,
        hidden_dim=width * 11 // 4, vocab_size=8192, norm_eps=1e-5, rope_theta=1e9,
    )  # fmt: skip


def measure(decoder: Decoder, rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant as shares of the plain one in the same round."""
    steppers = {
        "plain": Plain(decoder),
        "fused": Plain(fused(decoder)),
        "compiled step": Compiled(decoder),
        "fused, compiled step": Compiled(fused(decoder)),
    }
    expected = None
    for name, stepper in steppers.items():
        start = time.perf_counter()
        logits = stepper.logits(7)
        mx.eval(logits)
        print(f"(the first step, {name}: {time.perf_counter() - start:.2f} s)", flush=True)
        expected = logits if expected is None else expected
        if not mx.allclose(logits, expected, atol=px.machine().tolerance(1e-3)):
            raise SystemExit(f"{name}: other logits, off by {mx.abs(logits - expected).max()}")
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(rounds + 1):
        for name, stepper in steppers.items():
            start = clock()
            stepper.decode(TOKENS)
            times[name].append(clock() - start)
        if number == 0:  # compiles, and reads weights
            times = {name: [] for name in times}
    return {
        name: [one / plain for one, plain in zip(own, times["plain"], strict=True)]
        for name, own in times.items()
    }


class Plain:
    """The decoder as it is in the library."""

    def __init__(self, decoder: Any):
        self.decoder, self.cache = decoder, make_prompt_cache(decoder)
        mx.random.seed(1)
        for layer in self.cache:  # any context does, and reading one takes minutes in 4 bits
            keys = mx.random.normal(
                (1, decoder.config.n_kv_heads, CONTEXT, decoder.config.head_dim)
            )
            layer.update_and_fetch(keys, mx.random.normal(keys.shape))

    def logits(self, token: int) -> mx.array:
        """Of one step; the cache is as before."""
        logits = self.decoder(mx.array([[token]]), cache=self.cache)[0, -1]
        mx.eval(logits)
        trim_prompt_cache(self.cache, 1)
        return logits

    def decode(self, tokens: int) -> None:
        """Greedy steps, each after the last; the cache is as before."""
        token = mx.array([[7]])
        for _ in range(tokens):
            token = mx.argmax(self.decoder(token, cache=self.cache)[:, -1:], axis=-1)
            mx.async_eval(token)
        mx.eval(token)
        trim_prompt_cache(self.cache, tokens)


class ArrayCache:
    """A KV cache of one size, whose position is an array: shapes never change."""

    def __init__(self, keys: mx.array, values: mx.array, offset: mx.array):
        self.keys, self.values, self.offset = keys, values, offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write one position, give all."""
        self.keys = mx.slice_update(self.keys, keys, self.offset, axes=[2])
        self.values = mx.slice_update(self.values, values, self.offset, axes=[2])
        return self.keys, self.values

    def make_mask(self, *_: Any, **__: Any) -> mx.array:
        """All positions up to this one."""
        return mx.arange(self.keys.shape[2]) <= self.offset


class Compiled:
    """One compiled function: token, position and caches in, next token and caches out."""

    def __init__(self, decoder: Any):
        plain = Plain(decoder)
        room = [(0, 0), (0, 0), (0, CONTEXT), (0, 0)]
        self.state = [
            (mx.pad(keys, room), mx.pad(values, room))
            for keys, values in (layer.keys_and_values() for layer in plain.cache)
        ]
        mx.eval(self.state)

        def step(token: mx.array, offset: mx.array, state: list[Any]) -> tuple[mx.array, list[Any]]:
            cache = [ArrayCache(keys, values, offset) for keys, values in state]
            logits = decoder(token, cache=cache)[:, -1]
            return logits, [(layer.keys, layer.values) for layer in cache]

        self.step = mx.compile(step)

    def logits(self, token: int) -> mx.array:
        """Of one step."""
        logits, _ = self.step(mx.array([[token]]), mx.array(CONTEXT), self.state)
        return logits[0]

    def decode(self, tokens: int) -> None:
        """Greedy steps, each after the last."""
        token, state = mx.array([[7]]), self.state
        for number in range(tokens):
            logits, state = self.step(token, mx.array(CONTEXT + number), state)
            token = mx.argmax(logits, axis=-1)[None]
            mx.async_eval(token, state)
        mx.eval(token)


# Variants ---------------------------------------------------------------------------------------


class Fused(nn.Module):
    """Several linear layers of the same input as one; results are split again."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.whole = layers[0]
        joined = {
            name: mx.concatenate([layer[name] for layer in layers])
            for name in ("weight", "scales", "biases")
            if name in layers[0]
        }
        self.ends = [layers[0]["weight"].shape[0]]
        for layer in layers[1:-1]:
            self.ends.append(self.ends[-1] + layer["weight"].shape[0])
        self.whole = clone(layers[0])
        self.whole.update(joined)

    def __call__(self, x: mx.array) -> list[mx.array]:
        """All results for one input."""
        return mx.split(self.whole(x), self.ends, axis=-1)


def clone(module: nn.Module) -> Any:
    """The same arrays in modules of their own."""
    copy = module.__class__.__new__(module.__class__)
    nn.Module.__init__(copy)
    copy.__dict__.update(module.__dict__)
    for name, value in module.items():
        copy[name] = cloned(value)
    return copy


def cloned(value: Any) -> Any:
    """Of a module, a list of modules, or anything else."""
    if isinstance(value, nn.Module):
        return clone(value)
    return [cloned(one) for one in value] if isinstance(value, list) else value


class Given:
    """Stands in for a linear layer: its result is taken from one that was computed for all."""

    def __init__(self, store: dict[str, Any], fused_layer: Fused, number: int):
        self.store, self.fused_layer, self.number = store, fused_layer, number

    def __call__(self, x: mx.array) -> mx.array:
        """This layer's share; the first of them computes all."""
        if self.number == 0:
            self.store["parts"] = self.fused_layer(x)
        return self.store["parts"][self.number]


def fused(decoder: Decoder) -> Any:
    """A copy with one matrix for queries, keys and values, and one for gate and up."""
    copy = clone(decoder)
    for layer in copy.layers:
        for module, names in (
            (layer.attention, ("wq", "wk", "wv")),
            (layer.feed_forward, ("w1", "w3")),
        ):
            whole, store = Fused(*(module[name] for name in names)), {}
            mx.eval(whole.parameters())
            module.whole = whole
            for number, name in enumerate(names):
                del module[name]
                object.__setattr__(module, name, Given(store, whole, number))
    return copy


if __name__ == "__main__":
    main()
