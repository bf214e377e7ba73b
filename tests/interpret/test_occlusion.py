"""The occlusion map is what single runs with masked patches measure."""

import math

import mlx.core as mx
import numpy as np
import pytest

import pixtral_mlx as px
from pixtral_mlx.interpret import edits


@pytest.mark.parametrize(("token", "image", "block"), [(0, 0, 1), (2, 1, 1), (1, 0, 2)])
def test_each_block_is_a_run_of_its_own(model, prompt, token, image, block, monkeypatch):
    monkeypatch.setattr("pixtral_mlx.interpret.occlusion.TOKENS_AT_ONCE", 3 * len(prompt.tokens))
    calls = []
    ours = model.occlusion_map(
        prompt, token, block, image=image, progress=lambda *counts: calls.append(counts)
    )
    grid = prompt.grids[image]
    assert ours.shape == grid
    blocks = math.ceil(grid.rows / block) * math.ceil(grid.columns / block)
    assert calls[-1] == (blocks, blocks)
    assert len(calls) == math.ceil(blocks / 3) or len(calls) == math.ceil(blocks / 2)

    tokens = model.generate(prompt, max_tokens=token + 1).tokens
    longer = px.Prompt(prompt.tokens + tokens[:token], prompt.images, prompt.grids, prompt.spans)

    def log_probability(*changes):
        logits = model.logits(longer, edits=changes)[-1]
        return float(logits[tokens[token]] - mx.logsumexp(logits))

    for row in range(grid.rows):
        for column in range(grid.columns):
            top, left = row - row % block, column - column % block
            hidden = [
                (r, c)
                for r in range(top, min(top + block, grid.rows))
                for c in range(left, min(left + block, grid.columns))
            ]
            drop = log_probability() - log_probability(edits.MaskPatches(hidden, image))
            assert ours[row, column] == pytest.approx(drop, abs=2e-5)
    assert np.abs(ours).max() > 1e-3  # hiding something matters


def test_messages_as_for_encode_and_bad_requests(model, prompt):
    pixels = np.zeros((20, 20, 3), np.uint8)
    assert model.occlusion_map("What?", 0, images=[pixels]).shape == (2, 2)
    with pytest.raises(IndexError, match="image 2: there are 2"):
        model.occlusion_map(prompt, 0, image=2)
    for block, allowed in ((0, "1 or more"), (1.5, "a whole number")):
        with pytest.raises(ValueError, match=f"^block must be {allowed}, got {block}$"):
            model.occlusion_map(prompt, 0, block)
    for token in (-1, "a"):
        with pytest.raises(IndexError, match="the first token is 0"):
            model.occlusion_map(prompt, token)
    with pytest.raises(IndexError, match="the prompt has no picture"):
        model.occlusion_map("Hello", 0)


def test_one_set_of_patches_of_a_given_answer_and_an_edited_run(model, prompt):
    changes = [edits.NoBreakTokens(), edits.KnockOutHeads("text", 0, [1])]
    answer, hidden = [300, 301, 302], [(0, 1), 3]

    def log_probability(*more):
        edited = edits.edited(prompt, changes, model.config)
        longer = px.Prompt(edited.tokens + answer[:2], edited.images, edited.grids, edited.spans)
        logits = model.logits(longer, edits=[changes[1], *more])[-1]
        return float(logits[answer[2]] - mx.logsumexp(logits))

    drop = log_probability() - log_probability(edits.MaskPatches(hidden, 1))
    given = {"image": 1, "tokens": answer, "edits": changes}
    assert model.occlusion(prompt, 2, hidden, **given) == pytest.approx(drop, abs=2e-5)
    assert abs(drop) > 1e-4
    whole = model.occlusion_map(prompt, 2, 9, **given)
    together = model.occlusion(prompt, 2, range(4), **given)
    assert whole == pytest.approx(np.full((2, 2), together), abs=2e-5)
    with pytest.raises(IndexError, match="patch 4: there are 4"):
        model.occlusion(prompt, 0, [4], **given)
    with pytest.raises(IndexError, match="token 3: there are 3"):
        model.occlusion(prompt, 3, [0], **given)
