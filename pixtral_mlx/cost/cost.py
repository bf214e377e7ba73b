"""What a run costs, by arithmetic alone: operations of the prefill, bytes that a decode step reads.

Prefill is bound by arithmetic and decode by memory bandwidth, so these two say what to expect of
a machine. A multiplication and an addition count as two operations.
"""

from collections.abc import Mapping, Sequence

from ..model.attention import PATCHES_AT_ONCE
from ..model.config import PixtralConfig, TextConfig, VisionConfig
from ..model.kv_cache import KVFormat


def prefill_operations(
    config: PixtralConfig, tokens: int, grids: Sequence[tuple[int, int]] = ()
) -> float:
    """Operations until the first token: 101.6e12 for the 12B and one image of 1024 x 1024 pixels.

    Arguments:
        config: of the model.
        tokens: of the whole prompt.
        grids: (rows, columns) of its images' tokens, whose patches are encoded and projected.
    """
    total = decoder_operations(config.text, tokens)
    if config.vision is not None:
        patches = config.vision.spatial_merge_size**2
        for rows, columns in grids:
            total += encoder_operations(config.vision, rows * columns * patches)
            total += projector_operations(config.vision, config.text, rows * columns)
    return total


def decoder_operations(config: TextConfig, tokens: int) -> float:
    """Of all decoder layers over `tokens` positions, attention causal; without the output, which
    is computed at one position only."""
    queries = config.n_heads * config.head_dim
    keys = config.n_kv_heads * config.head_dim
    weights = config.dim * (2 * queries + 2 * keys + 3 * config.hidden_dim)
    attention = 2 * tokens * tokens * queries
    return config.n_layers * (2.0 * tokens * weights + attention)


def encoder_operations(config: VisionConfig, patches: int) -> float:
    """Of the vision encoder for one image, whose patches all see one another."""
    width, pixels = config.hidden_size, config.num_channels * config.patch_size**2
    weights = width * (4 * width + 3 * config.intermediate_size)
    attention = 4 * patches * patches * width
    layers = config.num_hidden_layers * (2.0 * patches * weights + attention)
    return layers + 2.0 * patches * pixels * width


def projector_operations(vision: VisionConfig, text: TextConfig, tokens: int) -> float:
    """Of the projector for so many tokens of images, merging their patches included."""
    width = vision.hidden_size
    merging = width * vision.spatial_merge_size**2 * width if vision.merges else 0
    return 2.0 * tokens * (merging + text.dim * (width + text.dim))


def step_weight_bytes(sizes: Mapping[str, int]) -> int:
    """Bytes of weights that one decode step reads: the decoder's, but of the embeddings only one
    row, unless they are the output too.

    Arguments:
        sizes: {our parameter name: bytes}, of a model or of a plan.
    """
    embeddings = "decoder.tok_embeddings."
    tied = not any(name.startswith("decoder.output.") for name in sizes)
    read = [name for name in sizes if name.startswith("decoder.")]
    return sum(sizes[name] for name in read if tied or not name.startswith(embeddings))


def activation_bytes(
    config: PixtralConfig,
    tokens: int,
    grids: Sequence[tuple[int, int]] = (),
    *,
    itemsize: int = 2,
    prefill_step_size: int = 512,
) -> int:
    """An estimate of the most that is held beside weights and KV cache: the greater of

    - the encoder in its feed-forward, for the N patches that go through it together (one image,
      or some small ones): the residual twice and the two inner activations and their product,
      `N (2 D + 3 I)`; and D for each patch of all images, which waits for the projector;
    - a prefill step of S tokens: the embeddings of all L tokens, `L dim`, and for S of them the
      residual twice and the inner activations, `S (2 dim + 3 hidden)`.

    Attention is left out: on Metal it is computed in tiles; on a CPU see `attention`.

    Arguments:
        tokens: of the whole prompt.
        grids: (rows, columns) of its images' tokens.
        itemsize: bytes of an activation.
        prefill_step_size: prompt tokens a step.
    """
    text, vision = config.text, config.vision
    step = min(tokens, prefill_step_size)
    decoder = tokens * text.dim + step * (2 * text.dim + 3 * text.hidden_dim)
    encoder = 0
    if vision is not None:
        sizes = [rows * columns * vision.spatial_merge_size**2 for rows, columns in grids]
        most = max([min(sum(sizes), PATCHES_AT_ONCE), *sizes])
        encoder = most * (2 * vision.hidden_size + 3 * vision.intermediate_size)
        encoder += sum(sizes) * vision.hidden_size
    return itemsize * max(encoder, decoder)


def decode_bytes(
    weight_bytes: int,
    config: TextConfig,
    tokens: int,
    itemsize: int = 2,
    *,
    kv: KVFormat | None = None,
) -> int:
    """Bytes that one decode step reads.

    Arguments:
        weight_bytes: from `step_weight_bytes`.
        tokens: of context, whose keys and values are read.
        itemsize: bytes of a number as computed.
        kv: in what form the KV cache is kept; None as computed.
    """
    kv = (kv or KVFormat()).of(config)
    return weight_bytes + tokens * kv.bytes_per_token(config, itemsize)
