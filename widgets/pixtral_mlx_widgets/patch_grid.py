"""`PatchGrid`: how a picture becomes tokens."""

from os import PathLike
from typing import Any

import traitlets

import pixtral_mlx as px
from pixtral_mlx.cost import CHIPS, prefill_operations
from pixtral_mlx.inputs import picture_file, preprocess
from pixtral_mlx.model import PIXTRAL_12B

from .session import Session, sentence
from .view import View, config_of

STEP = 16
"""Of the size slider, in pixels."""

LARGEST_SIDE = 1536
"""End of the size slider, in pixels: beyond the longest side that the model sees."""

CHIP = CHIPS["M4 Max"]
"""Whose time is estimated; nobody measured it with this code."""


class PatchGrid(View):
    """The picture at its true token resolution, under its patch grid.

    Hover a patch to see its row, column and place in the prompt; click to choose it; drag the
    slider to see what another size would cost.

    >>> PatchGrid("chart.png")                 # no model is needed to count tokens
    >>> PatchGrid(session)                     # the pictures of the last question
    >>> PatchGrid("chart.png", model="mini")   # a model's own sizes

    Arguments:
        source: a `Session`, or an image: whatever `model.generate` takes as one.
        model: with an image: whose sizes count; None for Pixtral 12B's.

    Traits:
        image: which of the pictures. patch: (row, column) that is chosen, or None.
        side: longest side in pixels that the slider stands at; 0 for the picture's own.
    """

    name = "patch_grid"
    side = traitlets.Int(0).tag(sync=True)

    def __init__(self, source: Any = None, model: Any = None, **options: Any):
        self._picture, self._config = None, PIXTRAL_12B
        if source is not None and not isinstance(source, Session):
            problem = self._take_picture(source, model)
            super().__init__(None, None, problem=problem, **options)
            if not problem:
                self.facts, self.state = self._picture_facts(), "ready"
                self._save_soon()
        else:
            super().__init__(source, model, **options)

    def _take_picture(self, source: Any, model: Any) -> str:
        """An image alone: it is prepared here and now, since that needs no model.

        Returns:
            What is wrong with it or with the model, in one sentence; "" if nothing is.
        """
        try:
            if isinstance(model, Session):
                self._config = model.worker.submit(lambda model: model.config).result()
            elif model is not None:
                named = isinstance(model, str | PathLike)
                self._config = config_of(model) if named else model.config
            _vision(self._config)
            self._picture = px.open_image(source)
        except px.PixtralError as error:
            return sentence(error)
        return ""

    def _picture_facts(self) -> dict[str, Any]:
        size, vision = self.answer_size(None, 0, 0), _vision(self._config)
        return {
            "epoch": 0, "model": "", "tokens": size["tokens"],
            "text": {"context": self._config.text.max_seq_len},
            "vision": {"patch_size": vision.patch_size, "longest": vision.image_size},
            "images": [
                {
                    "rows": size["rows"], "columns": size["columns"], "start": None, "breaks": True,
                    "merge": vision.spatial_merge_size,
                }
            ],
        }  # fmt: skip

    def answer_pixels(self, model: Any, image: int) -> dict[str, Any]:
        """The picture as the model sees it."""
        if self._picture is None:
            return super().answer_pixels(model, image)
        pixels = preprocess(self._picture, _vision(self._config), px.ImageOptions())
        return picture_file(pixels)

    def answer_size(self, model: Any, image: int, side: int) -> dict[str, Any]:
        """What the picture would be if its longest side had `side` pixels (0: as it is)."""
        config = model.config if model is not None else self._config
        width, height = self._size_of(image, config)
        if side:
            scale = side / max(width, height)
            width, height = max(round(width * scale), 1), max(round(height * scale), 1)
        grid = px.patch_grid(width, height, _vision(config))
        operations = prefill_operations(config, grid.tokens, [grid])
        return {
            "width": width, "height": height, "rows": grid.rows, "columns": grid.columns,
            "patches": grid.patches, "tokens": grid.tokens,
            "merge": _vision(config).spatial_merge_size,
            "context": grid.tokens / config.text.max_seq_len,
            "operations": operations, "seconds": operations / CHIP.operations_per_second,
        }  # fmt: skip

    def _size_of(self, image: int, config: Any) -> tuple[int, int]:
        """Width and height in pixels; of a session's picture, as it was sent to the encoder."""
        if self._picture is not None:
            return self._picture.size
        images = self.session.prompt.images if self.session and self.session.prompt else []
        if not 0 <= image < len(images):
            raise IndexError(f"image {image}: ask a question with a picture first")
        return images[image].shape[2], images[image].shape[1]

    def questions_shown(self):
        """The pictures, and the size that the slider stands at."""
        yield from super().questions_shown()
        for image in range(len(self.facts.get("images", ()))):
            for side in {0, self.side}:
                yield "size", {"image": image, "side": side}

    def questions_beyond(self):
        """Every size that the slider can stand at."""
        for image in range(len(self.facts.get("images", ()))):
            for side in range(STEP, LARGEST_SIDE + 1, STEP):
                yield "size", {"image": image, "side": side}


def _vision(config: px.PixtralConfig) -> px.VisionConfig:
    if config.vision is None:
        raise px.ConfigError("this model has no vision encoder: give one that has")
    return config.vision
