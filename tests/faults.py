"""Classic mistakes in a Pixtral, each a function that makes it in this process.

`FAULTS` says for each where the comparisons with the golden arrays notice it.
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from PIL import Image

from pixtral_mlx import pixtral as model
from pixtral_mlx.inputs import pixels, tokenizer
from pixtral_mlx.model import prompt, rope, vision


def gelu_in_vision(patch, pixtral):
    class GeluFeedForward(vision.FeedForward):
        def __call__(self, x):
            return self.w2(nn.gelu(self.w1(x)) * self.w3(x))

    for layer in pixtral.vision_encoder.layers:
        layer.feed_forward.__class__ = GeluFeedForward


def tanh_gelu_in_projector(patch, pixtral):
    class TanhProjector(type(pixtral.projector)):
        def __call__(self, features, grids=None):
            return self.w_out(nn.gelu_approx(self.w_in(features)))

    pixtral.projector.__class__ = TanhProjector


def rows_and_columns_swapped(patch, pixtral):
    upright = rope.Rope2D._grid_angles

    def swapped(self, rows, columns):
        turned = upright(self, columns, rows).reshape(columns, rows, -1)
        return turned.swapaxes(0, 1).reshape(rows * columns, -1)

    patch.setattr(rope.Rope2D, "_grid_angles", swapped)


def same_frequencies_on_both_axes(patch, pixtral):
    # As if each axis were a one-dimensional RoPE of half the width: f[0::2] twice.
    two_dimensional = pixtral.vision_encoder.rope
    two_dimensional._column_frequencies = two_dimensional._row_frequencies


def frequencies_split_in_halves(patch, pixtral):
    # The fast half for the rows, the slow half for the columns, instead of every other one.
    two_dimensional = pixtral.vision_encoder.rope
    both = [two_dimensional._row_frequencies, two_dimensional._column_frequencies]
    fast, slow = mx.split(mx.stack(both, axis=1).flatten(), 2)
    two_dimensional._row_frequencies, two_dimensional._column_frequencies = fast, slow


def rotate_half_in_vision(patch, pixtral):
    def rotate(x, cosine, sine):
        first, second = mx.split(x, 2, axis=-1)
        turned = [first * cosine - second * sine, second * cosine + first * sine]
        return mx.concatenate(turned, axis=-1)

    patch.setattr(rope.Rope2D, "rotate", staticmethod(rotate))


def rotate_half_in_text(patch, pixtral):
    def call(self, x, offset=0):
        return self._turn(x, offset=offset, traditional=False)

    patch.setattr(rope.Rope1D, "__call__", call)


def small_eps_in_ln_pre(patch, pixtral):
    pixtral.vision_encoder.ln_pre.eps = 1e-6


def scale_from_the_wrong_width(patch, pixtral):
    config = pixtral.config.text
    for layer in pixtral.decoder.layers:
        layer.attention.scale = (config.dim / config.n_heads) ** -0.5


def images_see_one_another(patch, pixtral):
    attend = vision.VisionAttention.__call__
    patch.setattr(
        vision.VisionAttention,
        "__call__",
        lambda self, x, cosine, sine, lengths, *tap: attend(
            self, x, cosine, sine, [sum(lengths)], *tap
        ),
    )


def break_after_the_last_row(patch, pixtral):
    def tokens(grid, ids):
        return ([ids[0]] * grid.columns + [ids[1]]) * grid.rows

    patch.setattr(tokenizer, "image_tokens", tokens)


def features_at_breaks_and_ends(patch, pixtral):
    def merge(self, prompt, features):
        embeddings = self.decoder.tok_embeddings(mx.array(prompt.tokens))
        places = np.flatnonzero(np.isin(prompt.tokens, [10, 12, 13]))[: len(features)]
        embeddings[mx.array(places)] = features
        return embeddings

    patch.setattr(model.Pixtral, "merge", merge)


def floor_in_the_grid(patch, pixtral):
    patch.setattr(prompt, "round", math.floor, raising=False)


def antialiased_resize(patch, pixtral):
    def resize(picture, options, height, width):
        small = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        return pixels.normalise(np.asarray(small))

    patch.setattr(pixels, "_resize_cubic", resize)


def other_cubic(patch, pixtral):
    # Pillow's a = -0.5, here without antialiasing: the resize of many other libraries.
    taps = pixels.cubic_taps

    def sharper(old, new, exact):
        found = taps(old, new, exact)
        centre = (np.arange(new) + 0.5) * (old / new) - 0.5
        t = np.abs(centre - np.floor(centre) + np.array([[1], [0], [-1], [-2]]))
        near = 1.5 * t**3 - 2.5 * t**2 + 1
        far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        return found._replace(weights=np.where(t <= 1, near, far).astype(np.float32))

    patch.setattr(pixels, "cubic_taps", sharper)


def transparent_as_black(patch, pixtral):
    def to_rgb(picture, options, white):
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, "BLACK")
        black.paste(picture, (0, 0), picture)
        return black.convert("RGB")

    patch.setattr(pixels, "_to_rgb", to_rgb)


def transparency_ignored(patch, pixtral):
    patch.setattr(pixels, "_to_rgb", lambda picture, options, white: picture.convert("RGB"))


# fault: the case that shows it, and the first point that differs.
FAULTS = {
    gelu_in_vision: ("one_image", "vision_0"),
    tanh_gelu_in_projector: ("one_image", "projector"),
    rows_and_columns_swapped: ("one_image", "vision_0"),
    same_frequencies_on_both_axes: ("one_image", "vision_0"),
    frequencies_split_in_halves: ("one_image", "vision_0"),
    rotate_half_in_vision: ("one_image", "vision_0"),
    rotate_half_in_text: ("text_only", "decoder_0"),
    small_eps_in_ln_pre: ("one_image", "ln_pre"),
    scale_from_the_wrong_width: ("text_only", "decoder_0"),
    images_see_one_another: ("two_images", "vision_0"),
    break_after_the_last_row: ("one_image", "tokens"),
    features_at_breaks_and_ends: ("one_image", "merged"),
    floor_in_the_grid: ("wide", "tokens"),
    antialiased_resize: ("wide", "pixels_0"),
    other_cubic: ("one_image", "pixels_0"),
    transparent_as_black: ("modes", "pixels_0"),
    transparency_ignored: ("modes", "pixels_0"),
}
