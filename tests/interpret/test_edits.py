"""Edits do what they say and leave everything else alone."""

import mlx.core as mx
import numpy as np
import pytest
from questions import noise

from pixtral_mlx.interpret import edits
from pixtral_mlx.interpret.recorder import TraceOptions

BLOCKS = [f"{n}{what}" for n in range(3) for what in (".heads", "")]
SITES = (  # in the order of computation
    "vision.embeddings",
    *(f"vision.{block}" for block in BLOCKS),
    "projector",
    "text.embeddings",
    *(f"text.{block}" for block in BLOCKS),
)


@pytest.fixture(scope="module")
def prompt(loaded):
    return loaded.encode("What?", [noise(0, 60, 40), noise(1, 30, 50)])


def states(model, prompt, *changes):
    """Every site of a run, the decoder's over the prompt alone."""
    options = TraceOptions(states=SITES)
    found = model.generate(prompt, max_tokens=1, trace=options, edits=changes).trace.states
    end = len(prompt.tokens)
    return {site: v[:end] if site.startswith("text.") else v for site, v in found.items()}


@pytest.fixture(scope="module")
def plain(loaded, prompt):
    return states(loaded, prompt)


def changed(before, after):
    """Sites whose values differ."""
    return {site for site in SITES if not np.array_equal(before[site], after[site])}


def downstream(first):
    """A site and those that depend on it."""
    return set(SITES[SITES.index(first) :])


@pytest.mark.parametrize(
    "identity",
    [
        edits.MaskPatches([]),
        edits.KnockOutHeads("vision", 1, []),
        edits.KnockOutHeads("text", 1, []),
        edits.SkipLayers("vision", []),
        edits.SkipLayers("text", []),
        edits.PatchState("vision.1", np.zeros((1, 1)), rows=[]),
    ],
)
def test_an_empty_selection_is_the_identity(model, prompt, plain, identity):
    assert changed(plain, states(model, prompt, identity)) == set()
    exact = model.logits(prompt)
    assert np.array_equal(model.logits(prompt, edits=[identity]), exact)


def test_mask_patches_gives_the_mean_and_touches_nothing_else(model, prompt, plain):
    after = states(model, prompt, edits.MaskPatches([(1, 1), 0], image=1))
    assert changed(plain, after) == downstream("projector")
    first, grid = prompt.grids[0].patches, prompt.grids[1]
    expected = plain["projector"].copy()
    mean = plain["projector"][first : first + grid.patches].mean(axis=0)
    expected[[first, first + grid.columns + 1]] = mean
    np.testing.assert_allclose(after["projector"], expected, atol=1e-6)


def test_shuffle_permutes_one_image(model, prompt, plain):
    after = states(model, prompt, edits.ShufflePatches(seed=3, image=0))
    assert changed(plain, after) == downstream("projector")
    count = prompt.grids[0].patches
    assert np.array_equal(after["projector"][count:], plain["projector"][count:])
    mine, theirs = after["projector"][:count], plain["projector"][:count]
    assert not np.array_equal(mine, theirs)
    assert np.array_equal(mine[np.lexsort(mine.T)], theirs[np.lexsort(theirs.T)])
    again = states(model, prompt, edits.ShufflePatches(seed=3, image=0))
    assert np.array_equal(again["projector"], after["projector"])


@pytest.mark.parametrize("where", ["vision", "text"])
def test_knocked_out_heads_give_zero(model, prompt, plain, where):
    after = states(model, prompt, edits.KnockOutHeads(where, 1, [0, 3]))
    assert changed(plain, after) == downstream(f"{where}.1.heads")
    site = f"{where}.1.heads"
    assert not after[site][:, [0, 3]].any()
    assert np.array_equal(after[site][:, [1, 2]], plain[site][:, [1, 2]])


@pytest.mark.parametrize("where", ["vision", "text"])
def test_skipped_layers_pass_the_residual_on(model, prompt, plain, where):
    after = states(model, prompt, edits.SkipLayers(where, [1]))
    assert changed(plain, after) == downstream(f"{where}.1")
    assert np.array_equal(after[f"{where}.1"], plain[f"{where}.0"])
    both = states(model, prompt, edits.SkipLayers(where, range(3)))
    assert np.array_equal(both[f"{where}.2"], plain[f"{where}.embeddings"])


def test_no_break_tokens(model, prompt):
    reply = model.generate(prompt, max_tokens=3, trace=True, edits=[edits.NoBreakTokens()])
    shorter = reply.trace.prompt
    pieces = [token for token in prompt.tokens if token != 12]
    assert shorter.tokens == pieces
    assert shorter.tokens.count(13) == 2
    assert reply.stats.prompt_tokens == len(pieces)
    assert reply.stats.image_tokens == sum(grid.patches + 1 for grid in prompt.grids)
    for span, grid in zip(shorter.spans, prompt.grids, strict=True):
        places = span.patch_positions()
        assert places == list(range(span.start, span.start + grid.patches))
        assert {shorter.tokens[place] for place in places} == {10}
        assert shorter.tokens[span.stop - 1] == 13
    assert reply.tokens == model.generate(shorter, max_tokens=3).tokens
    assert reply.trace.image_attention(1, image=1).shape == prompt.grids[1]
    # Twice is once, and without an image there is nothing to do.
    twice = model.stream(prompt, edits=[edits.NoBreakTokens(), edits.NoBreakTokens()])
    assert twice.prompt.tokens == pieces
    text = model.encode("No picture")
    assert model.stream(text, edits=[edits.NoBreakTokens()]).prompt.tokens == text.tokens


def test_no_vision_mask_lets_images_see_each_other(model, prompt, plain):
    after = states(model, prompt, edits.NoVisionMask())
    assert changed(plain, after) == downstream("vision.0.heads")
    reply = model.generate(prompt, max_tokens=1, trace=True, edits=[edits.NoVisionMask()])
    own = reply.trace.vision_attention(0, 0, image=1).sum()
    assert 0 < own < 0.99  # the rest leaked to the other image
    alone = model.encode("What?", [noise(0, 60, 40)])
    one = states(model, alone, edits.NoVisionMask())
    assert changed(states(model, alone), one) == set()


def test_patching_a_state_from_another_run(model, prompt, plain):
    other = model.encode("What?", [noise(5, 60, 40), noise(1, 30, 50)])
    theirs = states(model, other)
    whole = states(model, prompt, edits.PatchState("vision.1", theirs["vision.1"]))
    assert changed(theirs, whole) == {
        "vision.embeddings",
        "vision.0",
        "vision.0.heads",
        "vision.1.heads",
    }
    rows = [0, 4]
    part = states(model, prompt, edits.PatchState("projector", theirs["projector"], rows=rows))
    assert changed(plain, part) == downstream("projector")
    expected = plain["projector"].copy()
    expected[rows] = theirs["projector"][rows]
    assert np.array_equal(part["projector"], expected)
    same = states(model, prompt, edits.PatchState("vision.1", plain["vision.1"]))
    assert changed(plain, same) == set()
    with pytest.raises(ValueError, match="images of one size"):
        states(model, prompt, edits.PatchState("vision.1", np.zeros((3, 64))))
    with pytest.raises(IndexError, match=r"row of vision\.1 99"):
        states(model, prompt, edits.PatchState("vision.1", plain["vision.1"], rows=[99]))


@pytest.mark.parametrize("where", ["vision", "text"])
def test_patching_heads_takes_rows_of_patches_and_positions(model, prompt, plain, where):
    site = f"{where}.1.heads"
    other = np.random.RandomState(0).normal(size=plain[site].shape).astype(np.float32)
    after = states(model, prompt, edits.PatchState(site, other, rows=[5]))
    expected = plain[site].copy()
    expected[5] = other[5]
    assert np.array_equal(after[site], expected)
    assert changed(plain, after) == downstream(site)


@pytest.mark.parametrize("step", [4, 512])
def test_patching_positions_of_the_decoder(model, prompt, plain, step):
    """The residual stream of one position, taken from another run, whatever the chunks."""
    other = model.encode("What?", [noise(5, 60, 40), noise(1, 30, 50)])
    theirs = states(model, other)
    at = prompt.spans[0].position(1, 1)
    patch = edits.PatchState("text.1", theirs["text.1"], rows=[at])
    after = states(model, prompt, patch)
    assert changed(plain, after) == downstream("text.1")
    expected = plain["text.1"].copy()
    expected[at] = theirs["text.1"][at]
    assert np.array_equal(after["text.1"], expected)
    whole = edits.PatchState("text.1", theirs["text.1"])
    answer = model.generate(other, max_tokens=1)
    patched = model.generate(prompt, max_tokens=1, edits=[whole], prefill_step_size=step)
    assert patched.logprobs[0] == pytest.approx(answer.logprobs[0], abs=1e-5)
    assert patched.tokens == answer.tokens
    some = model.generate(prompt, max_tokens=4, edits=[patch], prefill_step_size=step)
    logits = model.logits(prompt, edits=[patch])[-1]
    assert int(mx.argmax(logits)) == some.tokens[0]


def test_edits_combine_in_order(model, prompt):
    both = [edits.KnockOutHeads("text", 0, [1]), edits.SkipLayers("text", [2])]
    after = states(model, prompt, *both)
    assert not after["text.0.heads"][:, 1].any()
    assert np.array_equal(after["text.2"], after["text.1"])
    assert np.array_equal(
        model.logits(prompt, edits=both)[-1], model.logits(prompt, edits=both[::-1])[-1]
    )


def test_edits_compare_by_value_and_can_be_keys():
    pairs = [
        (edits.MaskPatches([(0, 1), 2]), edits.MaskPatches(((0, 1), 2)), edits.MaskPatches([2])),
        (edits.KnockOutHeads("text", 1, range(2)), edits.KnockOutHeads("text", 1, (0, 1)),
         edits.KnockOutHeads("vision", 1, (0, 1))),
        (edits.NoBreakTokens(), edits.NoBreakTokens(), edits.NoVisionMask()),
        tuple(edits.PatchState("projector", np.full((2, 2), n)) for n in (1, 1, 0)),
        (edits.ShufflePatches(1), edits.ShufflePatches(1), edits.ShufflePatches(2)),
    ]  # fmt: skip
    for one, same, other in pairs:
        assert one == same
        assert hash(one) == hash(same)
        assert one != other
        assert len({one, same, other}) == 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edits.MaskPatches([99]), "patch 99: there are 12, 0 to 11"),
        (edits.MaskPatches([(3, 0)]), "rows 0 to 2 and columns 0 to 3"),
        (edits.MaskPatches([0], image=2), "image 2: there are 2"),
        (edits.KnockOutHeads("vision", 3, [0]), "vision layer 3: there are 3"),
        (edits.KnockOutHeads("text", 0, [4]), "text head 4: there are 4"),
        (edits.SkipLayers("text", [7]), "text layer 7"),
        (edits.ShufflePatches(0, image=5), "image 5"),
        (edits.PatchState("vision.9", np.zeros(3)), "vision layer 9: there are 3, 0 to 2"),
        (edits.PatchState("vision.x", np.zeros(3)), "there are vision.embeddings"),
    ],
)
def test_what_is_not_there_is_named(model, prompt, edit, message):
    with pytest.raises(IndexError, match=message):
        model.generate(prompt, max_tokens=1, edits=[edit])


def test_wrong_edits(model, prompt):
    with pytest.raises(ValueError, match=r"^where must be vision or text, got 'audio'$"):
        edits.SkipLayers("audio", [0])
    with pytest.raises(TypeError, match="allowed: objects of"):
        model.generate(prompt, edits=["NoBreakTokens"])


def test_edits_come_in_any_iterable_or_alone(model, prompt):
    edit = edits.KnockOutHeads("text", 0, range(4))
    wanted = model.generate(prompt, max_tokens=2, edits=[edit]).logprobs
    assert wanted != model.generate(prompt, max_tokens=2).logprobs
    for given in (edit, iter([edit])):
        assert model.generate(prompt, max_tokens=2, edits=given).logprobs == wanted
    logits = model.logits(prompt, edits=[edit])
    for given in (edit, iter([edit])):
        assert np.array_equal(model.logits(prompt, edits=given), logits)


@pytest.mark.parametrize("wrong", [[1.5], [True], ["a"], 1, "12"])
def test_selections_are_lists_of_whole_numbers(wrong):
    with pytest.raises(TypeError, match="allowed"):
        edits.MaskPatches(wrong)
    with pytest.raises(TypeError, match="allowed"):
        edits.KnockOutHeads("text", 0, wrong)


def test_patches_from_numpy():
    found = np.argwhere(np.eye(2))
    assert edits.MaskPatches(found) == edits.MaskPatches([(0, 0), (1, 1)])
    assert edits.SkipLayers("text", np.arange(2)) == edits.SkipLayers("text", [0, 1])


def test_edits_work_in_chunks(model, prompt):
    changes = [edits.KnockOutHeads("text", 1, [2]), edits.MaskPatches([0, 1])]
    options = {"max_tokens": 6, "edits": changes, "reuse": False}
    whole = model.generate(prompt, **options)
    for step in (1, 5):
        assert model.generate(prompt, prefill_step_size=step, **options).tokens == whole.tokens
    logits = model.logits(prompt, edits=changes)[-1]
    assert int(mx.argmax(logits)) == whole.tokens[0]
