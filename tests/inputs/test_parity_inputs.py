"""Token ids, grids and pixels against mistral-common itself, which resizes with OpenCV."""

import base64
import io

import cases
import checkpoints
import cv2
import numpy as np
import pytest
from mistral_common.protocol.instruct.chunk import ImageChunk, ImageURLChunk
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from PIL import Image

from pixtral_mlx.inputs import pixels
from pixtral_mlx.inputs.image import ImageOptions, open_image
from pixtral_mlx.inputs.pixels import preprocess
from pixtral_mlx.inputs.tokenizer import Tokenizer
from pixtral_mlx.model.config import PixtralConfig
from pixtral_mlx.model.prompt import patch_grid

PIXEL_TOLERANCE = 2e-5
VISION = PixtralConfig.from_params(checkpoints.official_params()).vision
REFERENCE = ImageEncoder(ImageConfig(16, 1024), SpecialImageIDs(10, 12, 13))
# As the reference: no EXIF orientation, 16-bit grey clipped.
OPTIONS = ImageOptions(orient=False, grey16="clip")

SIZES = [
    (1, 1), (2, 3), (15, 17), (16, 16), (90, 50), (333, 77), (1024, 16), (1023, 1025),
    (1025, 40), (1300, 671), (2048, 33), (2048, 35), (31, 2048), (1, 5000), (5000, 1),
    (3, 4096), (4096, 3), (1999, 1400), (640, 480),
]  # fmt: skip
MODES = ["RGBA", "P", "L", "LA", "1", "CMYK", "YCbCr", "I;16"]


class Sized:
    """Stands for a picture of which only the size is asked."""

    def __init__(self, width: int, height: int):
        self.size = (width, height)


def reference_grid(width: int, height: int) -> tuple[int, int]:
    """(rows, columns) as mistral-common computes them."""
    columns, rows = REFERENCE._image_to_num_tokens(Sized(width, height))
    return rows, columns


def assert_pixels_equal(picture: Image.Image, options: ImageOptions = OPTIONS) -> None:
    """Our pixels of a picture, opened and prepared, are those of mistral-common."""
    expected = REFERENCE(ImageChunk(image=picture)).image
    ours = preprocess(open_image(picture, options), VISION, options)
    assert ours.shape == expected.shape
    assert ours.dtype == np.float32
    assert np.abs(ours - expected).max() <= PIXEL_TOLERANCE


def test_grids_of_many_sizes_are_those_of_mistral_common():
    sides = [*range(1, 90), *range(90, 2100, 23), *range(2100, 9000, 371), 2048, 4096, 99_999]
    differing = [
        (width, height)
        for width in sides
        for height in sides
        if patch_grid(width, height, VISION) != reference_grid(width, height)
    ]
    assert differing == []


def test_halves_round_to_the_even_number():
    # 33 / 2 = 16.5 -> 16: one row of patches; rounding halves up would make two.
    assert patch_grid(2048, 33, VISION) == reference_grid(2048, 33) == (1, 64)
    # 97 / 2 = 48.5 -> 48: three columns, not four.
    assert patch_grid(97, 2048, VISION) == reference_grid(97, 2048) == (64, 3)
    # 67 / 4 = 16.75 -> 17: two rows; cutting off would make one.
    assert patch_grid(4096, 67, VISION) == reference_grid(4096, 67) == (2, 64)


@pytest.fixture(params=["this machine", "without IPP"])
def opencv(request, monkeypatch):
    """OpenCV as it is here, and as it is where Intel's IPP does not exist, as on every Mac."""
    if request.param == "without IPP":
        before = cv2.ipp.useIPP()
        monkeypatch.setattr(pixels, "EXACT_CENTRES", False)
        cv2.ipp.setUseIPP(False)
        yield
        cv2.ipp.setUseIPP(before)
    else:
        yield


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_pixels_of_extreme_and_ordinary_sizes(opencv, size):
    assert_pixels_equal(cases.picture(*size, seed=sum(size)))


def test_pixels_of_random_sizes(opencv):
    state = np.random.RandomState(4)
    for width, height in np.exp(state.uniform(0, np.log(2600), (40, 2))).astype(int):
        assert_pixels_equal(cases.picture(int(width), int(height), seed=int(width)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(45, 31), (1100, 60)], ids=["small", "shrunk"])
def test_pixels_of_every_mode(mode, size):
    assert_pixels_equal(cases.picture(*size, mode, seed=3))


def test_pixels_of_a_data_url():
    file = io.BytesIO()
    cases.picture(61, 44, "RGBA", seed=2).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    expected = REFERENCE(ImageURLChunk(image_url=url)).image
    ours = preprocess(open_image(url, OPTIONS), VISION, OPTIONS)
    assert np.abs(ours - expected).max() <= PIXEL_TOLERANCE


def test_exif_orientation_is_applied_by_default_and_not_in_the_reference():
    picture = cases.picture(60, 30)
    picture.getexif()[0x0112] = 6  # to be turned by a quarter
    file = io.BytesIO()
    picture.save(file, "PNG", exif=picture.getexif())
    turned = preprocess(open_image(file.getvalue()), VISION, ImageOptions())
    upright = preprocess(open_image(file.getvalue(), OPTIONS), VISION, OPTIONS)
    expected = REFERENCE(ImageChunk(image=Image.open(file))).image
    assert turned.shape == (3, 64, 32)
    assert np.abs(upright - expected).max() <= PIXEL_TOLERANCE


CONVERSATIONS = {
    **cases.CASES,
    "control_text": lambda: [
        cases.user(
            cases.text("[INST] [IMG] </s> [/INST]"), cases.image(20, 20), cases.text("[IMG_END]")
        )
    ],
    "trailing_image": lambda: [cases.user(cases.text("Look:"), cases.image(40, 20))],
    "images_only": lambda: [cases.user(cases.image(20, 20), cases.image(40, 20))],
    "interleaved": lambda: [
        cases.user(
            cases.image(20, 20), cases.text("a"), cases.image(20, 20, seed=1), cases.text("b"),
            cases.image(33, 18),
        )
    ],
    "long_chat": lambda: [
        {"role": "system", "content": "System 1."},
        cases.user(cases.text("One"), cases.image(16, 16)),
        {"role": "assistant", "content": "Réponse."},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": "好"},
        cases.user(cases.image(48, 16), cases.text("Three")),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def small_tokenizers(tmp_path_factory):
    """Kind -> (tokenizer file, our tokenizer) of the small Tekken and of SentencePiece v7m1."""
    found = {}
    for kind, name in (("tekken", "tekken.json"), ("spm", "tokenizer.model.v7m1")):
        folder = tmp_path_factory.mktemp(kind)
        checkpoints.write_tokenizer(folder, kind, 512, checkpoints.VISION)
        vision = PixtralConfig.from_params(checkpoints.official_params(tokenizer=kind)).vision
        found[kind] = folder / name, Tokenizer(folder / name, vision)
    return found


def test_words_beside_calls_of_tools_stay_where_the_template_has_a_place(small_tokenizers):
    """As mistral-common writes them for v7m1; its v3 refuses both in one message."""
    file, tokenizer = small_tokenizers["spm"]
    call = {"id": "abcdefghi", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [call]},
        {"role": "tool", "content": "red", "tool_call_id": "abcdefghi"},
    ]
    request = ChatCompletionRequest.model_validate({"messages": messages})
    reference = MistralTokenizer.from_file(str(file)).encode_chat_completion(request)
    assert tokenizer.encode(messages).tokens == reference.tokens
    assert "Let me look." in tokenizer.decode(tokenizer.encode(messages).tokens)


@pytest.mark.parametrize("kind", ["tekken", "spm"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_tokens_and_pixels_are_those_of_mistral_common(small_tokenizers, kind, name):
    file, tokenizer = small_tokenizers[kind]
    messages = CONVERSATIONS[name]()
    tokens, images = cases.reference_tokens(file, messages)
    prompt = tokenizer.encode(messages, options=OPTIONS)
    assert prompt.tokens == tokens
    assert len(prompt.images) == len(images)
    for ours, expected in zip(prompt.images, images, strict=True):
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() <= PIXEL_TOLERANCE


def test_tokens_of_the_tokenizer_of_pixtral_12b():
    file = checkpoints.shipped_tokenizer(checkpoints.TEKKEN_FILE)
    tokenizer = Tokenizer(file, VISION)
    for name in ("text_only", "two_images", "control_text", "long_chat"):
        messages = CONVERSATIONS[name]()
        tokens, _ = cases.reference_tokens(file, messages)
        assert tokenizer.encode(messages, options=OPTIONS).tokens == tokens, name


def test_encoding_does_not_read_the_tokenizer_again(small_tokenizers, monkeypatch):
    """mistral-common copies its tokenizer by reading the file: half a second for the 12B's."""
    tokenizer = small_tokenizers["tekken"][1]

    def read(*_, **__):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(type(tokenizer._mistral), "from_file", read)
    assert tokenizer.encode("Hello").tokens


def test_image_tokens_are_rows_with_breaks_and_one_end(small_tokenizers):
    for kind, (row_break, end) in {"tekken": (12, 13), "spm": (14, 15)}.items():
        prompt = small_tokenizers[kind][1].encode([cases.user(cases.image(40, 20))])
        assert prompt.grids == [(2, 3)]
        start = prompt.tokens.index(10)
        assert prompt.tokens[start : start + 8] == [10] * 3 + [row_break] + [10] * 3 + [end]


def test_a_full_size_image_has_3120_tokens():
    grid = patch_grid(1024, 768, VISION)
    assert grid == (48, 64)
    assert (grid.patches, grid.tokens) == (3072, 3120)
