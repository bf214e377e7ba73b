"""The names that the tensors of Pixtral and its heirs have in the wild, as tables.

Each row of a table is `(ours, theirs, transform)`; `{layer}` stands for the number of a layer.
"Ours" are the parameter names of the modules in this package, which are the official names
wherever there is one. Every tensor of a model has exactly one row in each layout, so that a table
reads both ways. A transform says how their array becomes ours:

- `copy`: as it is;
- `conv`: PyTorch's (out, in, height, width) becomes MLX's (out, height, width, in);
- `rope`: the rows of a query or key matrix go from rotate-half order (HF, MLX) to the interleaved
  pairs of the official weights. Whole rows move, so the packed rows of a quantized matrix, its
  scales and its biases move alike and nothing is lost.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..model.config import PixtralConfig

Row = tuple[str, str, str]

OFFICIAL_BLOCK: tuple[Row, ...] = (
    ("attention_norm.weight", "attention_norm.weight", "copy"),
    ("attention.wq.weight", "attention.wq.weight", "copy"),
    ("attention.wk.weight", "attention.wk.weight", "copy"),
    ("attention.wv.weight", "attention.wv.weight", "copy"),
    ("attention.wo.weight", "attention.wo.weight", "copy"),
    ("ffn_norm.weight", "ffn_norm.weight", "copy"),
    ("feed_forward.w1.weight", "feed_forward.w1.weight", "copy"),
    ("feed_forward.w2.weight", "feed_forward.w2.weight", "copy"),
    ("feed_forward.w3.weight", "feed_forward.w3.weight", "copy"),
)
"""One block, vision or text, in Mistral's names."""

HF_TEXT_BLOCK: tuple[Row, ...] = (
    ("attention_norm.weight", "input_layernorm.weight", "copy"),
    ("attention.wq.weight", "self_attn.q_proj.weight", "rope"),
    ("attention.wk.weight", "self_attn.k_proj.weight", "rope"),
    ("attention.wv.weight", "self_attn.v_proj.weight", "copy"),
    ("attention.wo.weight", "self_attn.o_proj.weight", "copy"),
    ("ffn_norm.weight", "post_attention_layernorm.weight", "copy"),
    ("feed_forward.w1.weight", "mlp.gate_proj.weight", "copy"),
    ("feed_forward.w2.weight", "mlp.down_proj.weight", "copy"),
    ("feed_forward.w3.weight", "mlp.up_proj.weight", "copy"),
)
"""One decoder block in transformers' names, which MLX folders keep."""

HF_VISION_BLOCK: tuple[Row, ...] = (
    ("attention_norm.weight", "attention_norm.weight", "copy"),
    ("attention.wq.weight", "attention.q_proj.weight", "rope"),
    ("attention.wk.weight", "attention.k_proj.weight", "rope"),
    ("attention.wv.weight", "attention.v_proj.weight", "copy"),
    ("attention.wo.weight", "attention.o_proj.weight", "copy"),
    ("ffn_norm.weight", "ffn_norm.weight", "copy"),
    ("feed_forward.w1.weight", "feed_forward.gate_proj.weight", "copy"),
    ("feed_forward.w2.weight", "feed_forward.down_proj.weight", "copy"),
    ("feed_forward.w3.weight", "feed_forward.up_proj.weight", "copy"),
)
"""One vision block in transformers' names, which MLX folders keep."""


def _under(ours: str, theirs: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The same rows below a prefix on either side."""
    return tuple((ours + a, theirs + b, transform) for a, b, transform in rows)


def _hf_rows(text: str, head: str, vision: str, projector: str, conv: str) -> tuple[Row, ...]:
    """Transformers' tables; its releases and mlx-vlm differ in prefixes and in the convolution."""
    return (
        ("vision_encoder.patch_conv.weight", f"{vision}patch_conv.weight", conv),
        ("vision_encoder.ln_pre.weight", f"{vision}ln_pre.weight", "copy"),
        *_under(
            "vision_encoder.layers.{layer}.",
            vision + "transformer.layers.{layer}.",
            HF_VISION_BLOCK,
        ),
        ("projector.norm.weight", f"{projector}norm.weight", "copy"),
        ("projector.merge.weight", f"{projector}patch_merger.merging_layer.weight", "copy"),
        ("projector.w_in.weight", f"{projector}linear_1.weight", "copy"),
        ("projector.w_in.bias", f"{projector}linear_1.bias", "copy"),
        ("projector.w_out.weight", f"{projector}linear_2.weight", "copy"),
        ("projector.w_out.bias", f"{projector}linear_2.bias", "copy"),
        ("decoder.tok_embeddings.weight", f"{text}embed_tokens.weight", "copy"),
        *_under("decoder.layers.{layer}.", text + "layers.{layer}.", HF_TEXT_BLOCK),
        ("decoder.norm.weight", f"{text}norm.weight", "copy"),
        ("decoder.output.weight", f"{head}lm_head.weight", "copy"),
    )


@dataclass(frozen=True)
class Layout:
    """One way to name the tensors.

    Arguments:
        name: of this table.
        family: "official", "hf" or "mlx".
        rows: `(ours, theirs, transform)`, in the order of the computation.
    """

    name: str
    family: str
    rows: tuple[Row, ...]


OFFICIAL = Layout(
    "official",
    "official",
    (
        ("vision_encoder.patch_conv.weight", "vision_encoder.patch_conv.weight", "conv"),
        ("vision_encoder.ln_pre.weight", "vision_encoder.ln_pre.weight", "copy"),
        *_under(
            "vision_encoder.layers.{layer}.",
            "vision_encoder.transformer.layers.{layer}.",
            OFFICIAL_BLOCK,
        ),
        ("projector.norm.weight", "pre_mm_projector_norm.weight", "copy"),
        ("projector.merge.weight", "patch_merger.merging_layer.weight", "copy"),
        ("projector.w_in.weight", "vision_language_adapter.w_in.weight", "copy"),
        ("projector.w_in.bias", "vision_language_adapter.w_in.bias", "copy"),
        ("projector.w_out.weight", "vision_language_adapter.w_out.weight", "copy"),
        ("projector.w_out.bias", "vision_language_adapter.w_out.bias", "copy"),
        ("decoder.tok_embeddings.weight", "tok_embeddings.weight", "copy"),
        *_under("decoder.layers.{layer}.", "layers.{layer}.", OFFICIAL_BLOCK),
        ("decoder.norm.weight", "norm.weight", "copy"),
        ("decoder.output.weight", "output.weight", "copy"),
    ),
)
"""Mistral's own files; without the vision rows also Mistral NeMo's."""

HF_LLAVA = Layout(
    "hf-llava",
    "hf",
    _hf_rows(
        "language_model.model.",
        "language_model.",
        "vision_tower.",
        "multi_modal_projector.",
        "conv",
    ),
)
"""What transformers wrote for `model_type: llava` and `mistral3`: published folders hold it."""

HF_LLAVA_V5 = Layout(
    "hf-llava-v5",
    "hf",
    _hf_rows(
        "model.language_model.",
        "",
        "model.vision_tower.",
        "model.multi_modal_projector.",
        "conv",
    ),
)
"""The parameter names of transformers 5, as `save_original_format=False` writes them."""

HF_LLAVA_V54 = Layout(
    "hf-llava-v5.4",
    "hf",
    _hf_rows(
        "model.language_model.model.",
        "language_model.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
        "conv",
    ),
)
"""What transformers 5.4.0 to 5.5.4 saved, half in its old names and half in its new ones."""

HF_MISTRAL = Layout(
    "hf-mistral",
    "hf",
    tuple(row for row in _hf_rows("model.", "", "", "", "conv") if row[0].startswith("decoder.")),
)
"""A plain Mistral NeMo or Ministral 3: no vision."""

MLX = Layout(
    "mlx",
    "mlx",
    _hf_rows(
        "language_model.model.",
        "language_model.",
        "vision_tower.vision_model.",
        "multi_modal_projector.",
        "copy",
    ),
)
"""What mlx-vlm reads and writes for `pixtral` and `mistral3`, and what `convert` writes."""

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (OFFICIAL, HF_LLAVA, HF_LLAVA_V5, HF_LLAVA_V54, HF_MISTRAL, MLX)
}
"""Every table, by its name."""


class Transform(NamedTuple):
    """What to do with an array between a layout and ours.

    Works on MLX and NumPy arrays alike. For `rope`, the rows of each head stay together.

    Arguments:
        kind: "copy", "conv" or "rope".
        heads: heads of the matrix, for "rope".
    """

    kind: str
    heads: int = 0

    def to_ours(self, array: Any) -> Any:
        """Their array as our modules want it."""
        if self.kind == "conv":
            return array.transpose(0, 2, 3, 1)
        if self.kind == "rope":
            return self._swap(array, (self.heads, 2, -1, array.shape[1]))
        return array

    def from_ours(self, array: Any) -> Any:
        """The inverse of `to_ours`."""
        if self.kind == "conv":
            return array.transpose(0, 3, 1, 2)
        if self.kind == "rope":
            return self._swap(array, (self.heads, -1, 2, array.shape[1]))
        return array

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Their shape of an array whose shape is ours."""
        if self.kind == "conv":
            return (shape[0], shape[3], shape[1], shape[2])
        return shape

    @staticmethod
    def _swap(array: Any, split: tuple[int, ...]) -> Any:
        return array.reshape(split).swapaxes(1, 2).reshape(array.shape)


class Source(NamedTuple):
    """Where one of our parameters is found: their name, and how it becomes ours."""

    theirs: str
    transform: Transform


def to_ours(layout: Layout | str, config: PixtralConfig) -> dict[str, Source]:
    """The table of one layout for the sizes of one model.

    Arguments:
        layout: a `Layout` or its name in `LAYOUTS`.
        config: decides the layers, and whether there is vision, a bias, an output matrix.

    Returns:
        {our parameter name: Source}. Quantized matrices are listed by their weight; `companion`
        names their scales and biases, which take the same transform.
    """
    table = LAYOUTS[layout] if isinstance(layout, str) else layout
    return {
        ours: Source(theirs, _transform(kind, ours, config))
        for row in table.rows
        if _exists(row[0], config)
        for ours, theirs, kind in _layers(row, config)
    }


def to_mlx(config: PixtralConfig) -> dict[str, Source]:
    """The table that `convert` writes by: `to_ours("mlx", config)`."""
    return to_ours(MLX, config)


def written_layout(config: PixtralConfig) -> str:
    """mlx-vlm's names; a model without vision takes the names that mlx-lm opens."""
    return "mlx" if config.vision else "hf-mistral"


def shapes(config: PixtralConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each of our parameters before quantization, by the configuration alone."""
    text, vision = config.text, config.vision
    query, key = text.n_heads * text.head_dim, text.n_kv_heads * text.head_dim
    decoder = _block_shapes(text.dim, query, key, text.hidden_dim)
    decoder |= {
        "tok_embeddings.weight": (text.vocab_size, text.dim),
        "norm.weight": (text.dim,),
        "output.weight": (text.vocab_size, text.dim),
    }
    parts = {"decoder": decoder}
    if vision is not None:
        width, side = vision.hidden_size, vision.patch_size
        parts["vision_encoder"] = _block_shapes(width, width, width, vision.intermediate_size) | {
            "patch_conv.weight": (width, side, side, vision.num_channels),
            "ln_pre.weight": (width,),
        }
        parts["projector"] = {
            "norm.weight": (width,),
            "merge.weight": (width, width * vision.spatial_merge_size**2),
            "w_in.weight": (text.dim, width),
            "w_in.bias": (text.dim,),
            "w_out.weight": (text.dim, text.dim),
            "w_out.bias": (text.dim,),
        }
    return {name: parts[name.split(".")[0]][_in_part(name)] for name in to_ours(OFFICIAL, config)}


def detect(names: Collection[str], config: PixtralConfig) -> Layout | None:
    """The layout that explains most of the tensor names; None where none explains any."""
    held = set(names)

    def explained(layout: Layout) -> int:
        return sum(source.theirs in held for source in to_ours(layout, config).values())

    best = max(LAYOUTS.values(), key=explained)
    return best if explained(best) else None


def module_of(parameter: str) -> str:
    """The path of the module that holds a parameter: "a.b.weight" -> "a.b"."""
    return parameter.rpartition(".")[0]


def companion(weight: str, part: str) -> str:
    """The name beside a weight: ("a.b.weight", "scales") -> "a.b.scales"."""
    return f"{module_of(weight)}.{part}"


def module_aliases(config: PixtralConfig) -> dict[str, str]:
    """Every name that a quantization override may use for a module -> our module path.

    Overrides in `config.json` are written by mlx-vlm (MLX paths), by mlx-lm, and by hand (HF
    paths); mlx-vlm also accepts its paths without `language_model.`.
    """
    found: dict[str, str] = {}
    for layout in LAYOUTS.values():
        for ours, source in to_ours(layout, config).items():
            theirs, module = module_of(source.theirs), module_of(ours)
            for alias in (module, theirs, theirs.removeprefix("language_model.")):
                found.setdefault(alias, module)
    return found


def _layers(row: Row, config: PixtralConfig) -> Iterator[Row]:
    """The row itself, or one for each layer."""
    ours, theirs, transform = row
    if "{layer}" not in ours:
        yield row
        return
    vision = config.vision
    text_layers = config.text.n_layers
    count = text_layers if ours.startswith("decoder.") or not vision else vision.num_hidden_layers
    for layer in range(count):
        number = str(layer)
        yield ours.replace("{layer}", number), theirs.replace("{layer}", number), transform


def _exists(ours: str, config: PixtralConfig) -> bool:
    """Whether a model of this configuration has the parameter of a row."""
    if ours == "decoder.output.weight":
        return not config.text.tied_embeddings
    if ours.startswith("decoder."):
        return True
    if config.vision is None:
        return False
    if ours == "projector.norm.weight":
        return config.vision.add_pre_mm_projector_layer_norm
    if ours == "projector.merge.weight":
        return config.vision.merges
    return config.vision.adapter_bias or not ours.endswith(".bias")


def _transform(kind: str, ours: str, config: PixtralConfig) -> Transform:
    if kind != "rope":
        return Transform(kind)
    if config.vision is not None and ours.startswith("vision_encoder."):
        return Transform(kind, config.vision.num_attention_heads)
    return Transform(kind, config.text.n_heads if ".wq." in ours else config.text.n_kv_heads)


def _block_shapes(width: int, query: int, key: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        "attention_norm.weight": (width,),
        "attention.wq.weight": (query, width),
        "attention.wk.weight": (key, width),
        "attention.wv.weight": (key, width),
        "attention.wo.weight": (width, query),
        "ffn_norm.weight": (width,),
        "feed_forward.w1.weight": (hidden, width),
        "feed_forward.w2.weight": (width, hidden),
        "feed_forward.w3.weight": (hidden, width),
    }


def _in_part(name: str) -> str:
    """The name without its part and layer: "decoder.layers.3.ffn_norm.weight" -> "ffn_norm..."."""
    pieces = name.split(".")
    return ".".join(pieces[3:] if pieces[1] == "layers" else pieces[1:])
