"""Ablation without a browser: two runs compared word by word, as the core compares them."""

import json

import pytest
from views import ADDRESS, SCENE, answer_to, eventually

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx_widgets import ablation

EDITS = [
    px.edits.NoBreakTokens(), px.edits.MaskPatches([(2, 3), (2, 4)], 0),
    px.edits.KnockOutHeads("text", 1, [0, 2]), px.edits.SkipLayers("vision", [1]),
]  # fmt: skip


def test_choices_become_edits_and_edits_become_choices(session):
    view = w.Ablation(session)
    view.choices = {
        "breaks": True,
        "heads": [["text", 1, 2], ["text", 1, 0]],
        "layers": [["vision", 1]],
    }
    view.patches = [[0, 2, 4], [0, 2, 3]]
    assert view.edits == EDITS
    assert view.names == [
        "break tokens", "2 patches of picture 1", "heads 0, 2 of text layer 1", "vision layer 1"
    ]  # fmt: skip
    other = w.Ablation(session, linked=False)
    other.edits = [*EDITS[:1], px.edits.MaskPatches([23, (2, 4)], 0), *EDITS[2:]]
    assert other.choices["breaks"]
    assert other.patches == [[0, 2, 3], [0, 2, 4]]
    assert other.choices["heads"] == [["text", 1, 0], ["text", 1, 2]]
    other.patches = []
    assert other.edits == [EDITS[0], *EDITS[2:]]
    other.edits = [px.edits.ShufflePatches(7), px.edits.NoVisionMask()]  # a seed of its own
    other.choices = {**other.choices, "breaks": True}
    assert set(other.edits) == {EDITS[0], px.edits.ShufflePatches(7), px.edits.NoVisionMask()}


def test_two_runs_are_compared_word_by_word(session, mini, reply):
    view = w.Ablation(session)
    view.edits = EDITS[:3]
    view.run()
    result = view.wait(60)
    second = mini.generate("Describe the picture.", images=[SCENE.image], edits=EDITS[:3])
    assert (result["first"], result["second"]) == (reply.text, second.text)
    pairs = zip(reply.text.split(), second.text.split(), strict=False)
    assert result["first_difference"] == next(i for i, (a, b) in enumerate(pairs) if a != b)
    prompt = mini.encode("Describe the picture.", [SCENE.image])
    expected = px.compare_runs(mini, prompt, reply.tokens, EDITS[:3])
    sums = [expected.kl[word["tokens"]].sum() for word in view.words]
    assert result["kl"] == pytest.approx(sums, rel=1e-2, abs=1e-3)
    assert result["second_logprob"] == pytest.approx(expected.second.sum(), rel=1e-2)
    assert result["first_logprob"] == pytest.approx(sum(reply.logprobs), abs=1e-2)
    assert session.reply.text == reply.text  # the session's own answer stays
    assert view.work == {}
    assert " ".join(word["text"] for word in view.second) == second.text
    json.dumps(result)
    assert not ADDRESS.search(view.to_html())


def test_what_cannot_be_run_says_why(session):
    view = w.Ablation(session)
    assert "nothing is taken away" in answer_to(view, "run")["problem"]
    view.edits = [px.edits.SkipLayers("text", [9])]
    view.run()
    with pytest.raises(RuntimeError, match="text layer 9"):
        view.wait(60)
    view.edits = EDITS[:1]
    view.run()
    assert view.wait(60)["second"]


def test_the_second_run_stops():
    session = w.Session("mini", dtype="float32")
    session.ask("Describe the picture.", images=[SCENE.image], max_tokens=400, logit_bias={2: -1e9})
    session.wait(60)
    view = w.Ablation(session)
    view.edits = EDITS[:1]
    view.run()
    eventually(lambda: view.second)
    answer_to(view, "stop_work")
    assert view.wait(20) == {}
    assert 0 < len(view.second) < 300
    assert view.work == {}
    session.close()


@pytest.mark.parametrize(
    ("first", "second", "number"),
    [("a b c", "a b c", None), ("a b", "a c", 1), ("a", "a b", 1), ("a b", "a", 1), ("a", "b", 0)],
)
def test_first_difference(first, second, number):
    assert ablation.first_difference(first.split(), second.split()) == number
