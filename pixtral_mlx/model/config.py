"""The sizes of a Pixtral, as the official `params.json` has them.

No forward path holds a size as a literal: whatever is built, is built from these records.
Field names are those of the official `params.json`. The models that inherited Pixtral's encoder
(Mistral Small 3.1 and later, Magistral, Ministral 3) differ in these records alone.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from ..checks import number, one_of, whole
from ..errors import ConfigError

# The paper's 128K context. `params.json` does not say it, and the vocabulary has the same
# size by chance.
DEFAULT_CONTEXT = 131_072

OTHERS_TEXT = ("moe", "rope_scaling", "sliding_window")
"""What decoders of other Mistral models have; each of them changes what is computed."""

PATCH_MERGE = "patch_merge"
"""The one `mm_projector_id` there is."""

MOST_LAYERS = 10_000
"""A hundred times as many as any Pixtral has; more is a damaged or hostile file."""

RANGES = {
    "norm_eps": (0, 0.1), "rope_theta": (1, 10**15), "factor": (0, 10_000), "beta": (0, 10_000),
    "alpha": (0, 10_000),
}  # fmt: skip
"""Above what each number that is not whole must be, and its highest; a thousand times what any
published file has."""
MOST_SIDE = 65_536
"""Of an image, in pixels."""


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder and the projector (paper, section 2.2).

    Arguments:
        hidden_size: width of the encoder.
        num_channels: colour channels of an image.
        image_size: longest side of an image after resizing, in pixels.
        patch_size: side of a patch, in pixels.
        rope_theta: base of the two-dimensional rotary embedding.
        intermediate_size: inner width of the feed-forward network.
        num_hidden_layers: number of blocks.
        num_attention_heads: number of heads; they share `hidden_size` evenly.
        image_token_id: the id whose embeddings are replaced by image features.
        image_break_token_id: the id after each row of patches but the last; None where the file
            does not say it, then the tokenizer does (12 in Pixtral 12B).
        image_end_token_id: the id after the last row; None as above (13 in Pixtral 12B).
        adapter_bias: whether the projector's two layers have a bias.
        norm_eps: epsilon of every RMSNorm.
        mm_projector_id: "patch_merge" if the projector first makes one feature of a square of
            patches.
        spatial_merge_size: side of that square, in patches; above 1 says the same.
        add_pre_mm_projector_layer_norm: whether the features are normalised before the projector.
    """

    hidden_size: int
    num_channels: int
    image_size: int
    patch_size: int
    rope_theta: float
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_token_id: int
    image_break_token_id: int | None = None
    image_end_token_id: int | None = None
    adapter_bias: bool = True
    norm_eps: float = 1e-5
    mm_projector_id: str = ""
    spatial_merge_size: int = 1
    add_pre_mm_projector_layer_norm: bool = False

    def __post_init__(self):
        _check_fields(self, "vision")
        if self.hidden_size % self.num_attention_heads or self.head_dim % 4:
            raise ConfigError(
                f"vision_encoder: hidden_size {self.hidden_size} over {self.num_attention_heads} "
                "heads does not give a head width that is a multiple of 4, which RoPE-2D needs: "
                "check params.json"
            )
        if self.num_channels != 3:
            raise ConfigError(f"vision: num_channels is {self.num_channels}; pictures have 3")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def merges(self) -> bool:
        """Whether the projector merges patches."""
        return self.mm_projector_id == PATCH_MERGE or self.spatial_merge_size > 1

    @property
    def token_size(self) -> int:
        """Side of what one `[IMG]` shows, in pixels: a patch, or a square of them."""
        return self.patch_size * self.spatial_merge_size


@dataclass(frozen=True)
class Yarn:
    """Rotary embeddings stretched to a longer context (YaRN, Peng et al. 2023).

    Arguments:
        factor: how much longer.
        original_max_position_embeddings: context of the training before, in tokens.
        beta: pairs that turn at least so often within it stay as they are.
        alpha: pairs that turn at most so often are stretched whole; those between, in part.
        apply_scale: whether queries and keys grow by `1 + 0.1 ln(factor)`. Every published file
            says no, and so does one that does not say.
    """

    factor: float
    original_max_position_embeddings: int
    beta: float = 32.0
    alpha: float = 1.0
    apply_scale: bool = False

    def __post_init__(self):
        _check_fields(self, "yarn")
        if self.factor < 1:
            raise ConfigError(f"yarn: factor must be at least 1, got {self.factor}")


@dataclass(frozen=True)
class QueryScaling:
    """Queries that grow with their position, so that attention stays sharp in a long context.

    Arguments:
        beta: a query at position p is multiplied by `1 + beta ln(1 + floor(p / original))`.
        original_max_position_embeddings: `original`, in tokens.
    """

    beta: float
    original_max_position_embeddings: int

    def __post_init__(self):
        _check_fields(self, "llama_4_scaling")


@dataclass(frozen=True)
class TextConfig:
    """The decoder (Mistral NeMo).

    Arguments:
        dim: width of the residual stream.
        n_layers: number of blocks.
        head_dim: width of one head; `n_heads * head_dim` need not be `dim`.
        hidden_dim: inner width of the feed-forward network.
        n_heads: query heads.
        n_kv_heads: key and value heads; divides `n_heads`.
        norm_eps: epsilon of every RMSNorm.
        rope_theta: base of the rotary embedding.
        vocab_size: rows of the embedding and of the output matrix.
        max_seq_len: context, in tokens.
        tied_embeddings: whether the output matrix is the embedding itself.
        yarn: how its rotary embedding is stretched (Ministral 3); None if it is not.
        llama_4_scaling: how its queries grow (Ministral 3); None if they do not.
    """

    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    norm_eps: float
    rope_theta: float
    vocab_size: int
    max_seq_len: int = DEFAULT_CONTEXT
    tied_embeddings: bool = False
    yarn: Yarn | None = None
    llama_4_scaling: QueryScaling | None = None

    def __post_init__(self):
        _check_fields(self, "text")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_kv_heads {self.n_kv_heads} does not divide evenly into n_heads {self.n_heads}: "
                "check params.json"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} is odd, RoPE turns pairs: check it")


Where = Literal["vision", "text"]


@dataclass(frozen=True)
class PixtralConfig:
    """A whole model; `vision` is None for a plain Mistral NeMo."""

    text: TextConfig
    vision: VisionConfig | None = None

    def check_whole(self) -> None:
        """See that the parts of a model fit together; single ones are checked as they are made.

        Raises:
            ConfigError: they do not, or no picture could have so many pixels.
        """
        if self.vision is None:
            return
        if not self.vision.token_size <= self.vision.image_size <= MOST_SIDE:
            raise ConfigError(
                f"vision: image_size is {self.vision.image_size}; it is at least "
                f"{self.vision.token_size}, which one token shows, and at most {MOST_SIDE}"
            )
        names = ("image_token_id", "image_break_token_id", "image_end_token_id")
        ids = [value for name in names if (value := getattr(self.vision, name)) is not None]
        if len({*ids}) != len(ids) or max(ids) >= self.text.vocab_size:
            raise ConfigError(
                f"vision: the ids of [IMG], [IMG_BREAK] and [IMG_END] are {ids}; they are three "
                f"below vocab_size {self.text.vocab_size}"
            )

    def layers_and_heads(self, where: Where) -> tuple[int, int]:
        """How many layers the encoder or the decoder has, and how many heads each of them.

        Raises:
            IndexError: the model has no vision encoder.
        """
        if where == "text":
            return self.text.n_layers, self.text.n_heads
        if self.vision is None:
            raise IndexError("this model has no vision encoder")
        return self.vision.num_hidden_layers, self.vision.num_attention_heads

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "PixtralConfig":
        """Read the official `params.json` (mistral-inference, `args.py`).

        `max_position_embeddings`, where a file has it, is the context, unless `max_seq_len` is
        there too. The encoder's sizes may also stand in `multimodal`, where vLLM looks for them.

        Raises:
            ConfigError: a key is missing or a value is impossible; the message names it.
        """
        check_mapping(params, "params.json")
        refuse(params, OTHERS_TEXT, "params.json")
        _check_quantization(params.get("quantization"))
        text = _pick(TextConfig, params, "params.json")
        for key, kind in (("yarn", Yarn), ("llama_4_scaling", QueryScaling)):
            if key in text:
                check_mapping(text[key], f"params.json: {key}")
                text[key] = kind(**_pick(kind, text[key], f"params.json: {key}"))
        context = params.get("max_position_embeddings")
        if context is not None:
            text.setdefault("max_seq_len", context)
        where, vision = _vision_of(params)
        if vision is None:
            return cls(TextConfig(**text))
        check_mapping(vision, where)
        return cls(TextConfig(**text), VisionConfig(**_pick(VisionConfig, vision, where)))

    def to_params(self) -> dict[str, Any]:
        """The same sizes as an official `params.json` would hold them."""
        params = _said(self.text, always="max_seq_len")
        if self.vision is not None:
            vision = _said(self.vision, always="adapter_bias")
            vision.pop("norm_eps", None)
            params["vision_encoder"] = vision
        return params


def refuse(values: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    """Settings of other Mistral models, which would compute something else without a word."""
    for key in keys:
        if values.get(key):
            raise ConfigError(
                f"{where}: {key} is {values[key]!r}, which Pixtral and Mistral NeMo do not have: "
                "this folder holds another model"
            )


def _check_quantization(found: Any) -> None:
    """Refuse what Mistral quantizes otherwise than to FP8, which the weights' types say."""
    known = isinstance(found, Mapping) and found.get("qformat_weight") == "fp8_e4m3"
    if found and not known:
        raise ConfigError(
            f"params.json: quantization is {found!r}: these weights are not read; allowed: "
            "qformat_weight fp8_e4m3, or BF16, F16 or F32 weights"
        )


def _vision_of(params: Mapping[str, Any]) -> tuple[str, Any]:
    """The encoder's sizes and where they stand; None for a model without eyes."""
    others = params.get("multimodal") or {}
    check_mapping(others, "params.json: multimodal")
    refuse(others, ("whisper_model_args",), "params.json: multimodal")
    if params.get("vision_encoder") is not None:
        return "params.json: vision_encoder", params["vision_encoder"]
    return "params.json: multimodal.vision_encoder_args", others.get("vision_encoder_args")


def _said(config: Any, always: str) -> dict[str, Any]:
    """The fields of a record that are not as they are where a file does not say them."""
    defaults = {f.name: f.default for f in fields(config) if f.name != always}
    missing = object()
    return {k: v for k, v in asdict(config).items() if v != defaults.get(k, missing)}


def _pick(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The entries of `values` that are fields of `kind`; a missing one without default is named."""
    names = {f.name: f for f in fields(kind)}
    required = [n for n, f in names.items() if f.default is f.default_factory]
    missing = [n for n in required if values.get(n) is None]
    if missing:
        raise ConfigError(
            f"{where}: missing {', '.join(missing)}: compare it with the published file"
        )
    return {n: values[n] for n in names if values.get(n) is not None}


def check_mapping(value: Any, where: str) -> None:
    """Raise ConfigError where a file holds something else in the place of an object."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a JSON object, found {type(value).__name__}")


def _check_fields(config: Any, where: str) -> None:
    """Numbers must be positive, ids and widths whole: hostile sizes stop here."""
    for field in fields(config):
        value = getattr(config, field.name)
        if value is None and field.default is None:
            continue
        name = f"{where}: {field.name}"
        try:
            if field.type is bool:
                one_of(name, value, (True, False))
            elif field.type is str:
                one_of(name, value, ("", PATCH_MERGE))
            elif is_dataclass(value):
                pass  # checked by itself
            elif field.type in (int, int | None):
                layers = field.name in ("n_layers", "num_hidden_layers")
                lowest = 0 if field.name.endswith("_id") else 1
                whole(name, value, lowest, MOST_LAYERS if layers else 2**31 - 1)
            else:
                lowest, highest = RANGES[field.name]
                number(name, value, lowest, highest, above=True)
        except ValueError as error:
            raise ConfigError(str(error)) from None


PIXTRAL_12B_VISION = VisionConfig(
    hidden_size=1024, num_channels=3, image_size=1024, patch_size=16, rope_theta=1e4,
    intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_token_id=10,
)  # fmt: skip
PIXTRAL_12B = PixtralConfig(
    TextConfig(
        dim=5120, n_layers=40, head_dim=128, hidden_dim=14336, n_heads=32, n_kv_heads=8,
        norm_eps=1e-5, rope_theta=1e9, vocab_size=131_072,
    ),
    PIXTRAL_12B_VISION,
)  # fmt: skip
"""The published 12B, for questions about it without its files; no forward path reads this."""

HEIRS_VISION = replace(
    PIXTRAL_12B_VISION, image_size=1540, patch_size=14, adapter_bias=False,
    mm_projector_id=PATCH_MERGE, spatial_merge_size=2, add_pre_mm_projector_layer_norm=True,
)  # fmt: skip
MISTRAL_SMALL_24B = PixtralConfig(replace(PIXTRAL_12B.text, hidden_dim=32768), HEIRS_VISION)
"""The published Mistral Small 3.1 and 3.2 and Magistral Small, for the same."""
