"""`image_budget`: at most so many tokens an image, for any shape, and nothing else changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from questions import noise

import pixtral_mlx as px
from pixtral_mlx import cli
from pixtral_mlx.inputs.pixels import preprocess
from pixtral_mlx.model.config import PIXTRAL_12B_VISION

SIZES = [
    (1024, 768), (4000, 3000), (100, 100), (1, 1), (30_000, 2), (2, 30_000), (1024, 17),
    (333, 1000), (16, 16), (17, 16), (1023, 1025),
]  # fmt: skip
BUDGETS = [2, 3, 4, 5, 17, 64, 100, 999, 1000, 2000, 3120, 4160, 10**6]


@pytest.fixture(scope="module")
def large():
    return noise(0, 320, 200)


def naive(width, height, budget):
    """Try every longest side from the largest down, by the formula of mistral-common."""
    for side in range(1024, 0, -1):
        ratio = max(width / side, height / side)
        w, h = (width, height) if ratio <= 1 else (round(width / ratio), round(height / ratio))
        rows, columns = ((max(n, 1) - 1) // 16 + 1 for n in (h, w))
        if rows * (columns + 1) <= budget:
            return rows, columns
    raise AssertionError


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_grid_is_the_largest_that_the_budget_allows(size):
    full = px.patch_grid(*size, PIXTRAL_12B_VISION)
    before = 0
    for budget in BUDGETS:
        grid = px.patch_grid(*size, PIXTRAL_12B_VISION, budget)
        assert grid == naive(*size, budget)
        assert before <= grid.tokens <= budget
        assert (grid == full) == (full.tokens <= budget)
        before = grid.tokens


def test_the_shape_is_kept():
    for size in ((4000, 3000), (3000, 1000), (500, 1000)):
        grid = px.patch_grid(*size, PIXTRAL_12B_VISION, 500)
        assert grid.tokens > 400
        assert grid.columns / grid.rows == pytest.approx(size[0] / size[1], rel=0.1)
    assert px.patch_grid(30_000, 2, PIXTRAL_12B_VISION, 10) == (1, 9)
    assert px.patch_grid(2, 30_000, PIXTRAL_12B_VISION, 10) == (5, 1)


def test_pixels_are_resized_once_from_the_original(large):
    for resize in ("official", "antialiased"):
        options = px.ImageOptions(resize, image_budget=60)
        found = preprocess(large, PIXTRAL_12B_VISION, options)
        grid = px.patch_grid(*large.size, PIXTRAL_12B_VISION, 60)
        assert found.shape == (3, 16 * grid.rows, 16 * grid.columns)
        # The same as a model of a shorter longest side would see.
        side = next(
            s for s in range(1, 1024)
            if px.patch_grid(*large.size, replace(PIXTRAL_12B_VISION, image_size=s)) == grid
        )  # fmt: skip
        smaller = replace(PIXTRAL_12B_VISION, image_size=side)
        expected = preprocess(large, smaller, px.ImageOptions(resize))
        np.testing.assert_array_equal(found, expected)


def test_prompts_are_whole(model, large):
    full = model.encode("What?", [large, large])
    small = model.encode("What?", [large, large], image_budget=50)
    assert [span.stop - span.start for span in small.spans] == [grid.tokens for grid in small.grids]
    assert all(40 < grid.tokens <= 50 for grid in small.grids)
    assert len(full.tokens) - len(small.tokens) == sum(
        a.tokens - b.tokens for a, b in zip(full.grids, small.grids, strict=True)
    )
    options = px.ImageOptions(resize="antialiased", image_budget=1000)
    other = model.encode("What?", [large, large], image_options=options, image_budget=50)
    assert other.grids == small.grids
    assert not np.array_equal(other.images[0], small.images[0])
    roomy = model.encode("What?", [large], image_budget=10_000)
    assert roomy.tokens == model.encode("What?", [large]).tokens
    np.testing.assert_array_equal(roomy.images[0], full.images[0])


def test_it_reaches_every_way_to_ask(model, large):
    model.clear_cache()
    prompt = model.encode("What?", [large], image_budget=50)
    ask = {"images": [large], "image_budget": 50, "max_tokens": 4}
    expected = model.generate(prompt, max_tokens=4)
    assert expected.stats.image_tokens == prompt.grids[0].tokens
    assert model.generate("What?", **ask).tokens == expected.tokens
    assert [p.token for p in model.stream("What?", **ask)] == expected.tokens
    (batched,) = model.generate_batch([{"messages": "What?", **ask}])
    assert batched.tokens == expected.tokens


WITH_A_PROMPT = [
    {"images": ["a.png"]}, {"images": Image.new("RGB", (9, 9))}, {"image_budget": 50},
    {"image_options": px.ImageOptions()}, {"raw": True},
]  # fmt: skip


@pytest.mark.parametrize("given", WITH_A_PROMPT, ids=lambda given: next(iter(given)))
def test_a_prompt_has_its_pictures_and_takes_no_others(model, large, given):
    prompt = model.encode("What?", [large])
    (name,) = given
    problem = pytest.raises(px.PromptError, match=f"^{name}= goes with messages, and this is a Pr")
    with problem:
        model.generate(prompt, **given)
    with problem:
        model.stream(prompt, **given)
    with problem:
        model.generate_batch([{"messages": prompt, **given}])
    replies = model.generate_batch(
        [{"messages": prompt, **given}, "?"], max_tokens=1, return_errors=True
    )
    assert isinstance(replies[0], px.PromptError) and isinstance(replies[1], px.Reply)
    if name == "images":
        with problem:
            model.occlusion_map(prompt, 0, **given)
        with problem:
            model.occlusion(prompt, 0, [0], **given)
    else:
        with problem:  # for all, and so for this one
            model.generate_batch([prompt], **given)
    empty = {"images": [], "image_budget": None, "image_options": None, "raw": False}
    assert model.generate(prompt, max_tokens=2, **empty).stats.image_tokens > 0


def test_features_of_another_budget_never_serve(model, large):
    model.clear_cache()
    counts = []
    for budget in (None, 200, 50, None, 50):
        reply = model.generate("What?", images=[large], image_budget=budget, max_tokens=3)
        alone = model.generate(
            "What?", images=[large], image_budget=budget, max_tokens=3, reuse=False
        )
        assert reply.tokens == alone.tokens
        np.testing.assert_allclose(reply.logprobs, alone.logprobs, atol=1e-5)
        counts.append(reply.stats.cached_tokens > 2)
    assert counts[0] is counts[1] is counts[2] is False
    assert counts[3] is counts[4] is True


@pytest.mark.parametrize(
    ("budget", "said"),
    [(1, "2 or more, got 1"), (-4, "2 or more, got -4"), (0, "2 or more, got 0"),
     (True, "a whole number, got True"), (7.5, "a whole number, got 7.5"),
     ("9", "a whole number, got '9'")],
)  # fmt: skip
def test_budgets_that_cannot_be(model, large, budget, said):
    with pytest.raises(ValueError, match=f"^image_budget must be {said}$"):
        model.encode("What?", [large], image_budget=budget)


def test_the_command(model, large, tmp_path, capsys):
    file, folder = tmp_path / "picture.png", str(model.tokenizer.path.parent)
    large.save(file)
    ask = ["generate", "--model", folder, "--image", str(file), "--prompt", "?", "--json"]
    tokens = []
    for more in ((), ("--image-budget", "50")):
        assert cli.main([*ask, "--max-tokens", "2", *more]) == 0
        tokens.append(json.loads(capsys.readouterr().out)["stats"]["image_tokens"])
    assert tokens[0] == 13 * 21 and 40 < tokens[1] <= 50
    assert cli.main(["inspect", str(file), "--image-budget", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == tokens[1]
    assert cli.main([*ask, "--image-budget", "1"]) == 2
    assert "image_budget must be 2 or more, got 1" in capsys.readouterr().err
    assert cli.main(["inspect", folder, "--image-budget", "50"]) == 2
    assert "--image-budget is for a picture" in capsys.readouterr().err
