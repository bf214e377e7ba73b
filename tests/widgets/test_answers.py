"""AnswerLens without a browser: what it answers, compared with plain numpy."""

import json
import re
import time

import numpy as np
import pytest
from views import ADDRESS, SCENE, answer_to, eventually

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx_widgets import word_view


def test_words_are_those_of_the_answer(session, reply):
    lens = w.AnswerLens(session)
    assert " ".join(word["text"] for word in lens.words) == reply.text
    assert [t for word in lens.words for t in word["tokens"]] == list(range(len(reply.tokens)))
    for word in lens.words:
        likely = np.exp(min(reply.logprobs[t] for t in word["tokens"]))
        assert word["p"] == pytest.approx(likely, abs=1e-3)
    assert lens.stats["finished"] == "stop"
    assert lens.stats["prompt"] == reply.stats.prompt_tokens


def test_words_come_while_they_are_written_and_not_too_often():
    session = w.Session("mini", dtype="float32")
    lens, seen = w.AnswerLens(session), []
    lens.observe(lambda change: seen.append((len(change["new"]), session.busy)), "words")
    session.ask("Describe the picture.", images=[SCENE.image], max_tokens=300, logit_bias={2: -1e9})
    reply = session.wait(60)
    eventually(lambda: lens.stats.get("finished") == "length")
    live = [count for count, busy in seen if busy and count]
    assert live == sorted(live)
    assert len(live) >= 2, "nothing was shown before the end"
    most = reply.stats.decode_seconds / word_view.SECONDS_BETWEEN_WORDS + 4
    assert len(live) <= most
    assert lens.words[-1]["tokens"][-1] >= len(reply.tokens) - 3  # the last may be white space
    session.close()


@pytest.mark.parametrize(("token", "layer", "head"), [(4, None, None), (7, 2, None), (0, 1, 3)])
def test_look_is_the_row_of_the_trace(session, reply, token, layer, head):
    lens = w.AnswerLens(session)
    found = lens.ask("look", token=token, layer=layer, head=head, image=0)
    places = reply.trace.prompt.spans[0].patch_positions()
    layers = range(5) if layer is None else [layer]
    rows = [reply.trace.token_attention(token, one, head)[places] for one in layers]
    expected = np.mean(rows, axis=0).reshape(8, 10)
    assert found["top"] == pytest.approx(expected.max(), abs=1e-5)
    assert found["shares"] == pytest.approx([expected.sum()], abs=1e-4)
    assert np.abs(found["map"] - expected / expected.max() * 255).max() < 1
    assert tuple(found["peak"]) == np.unravel_index(expected.argmax(), (8, 10))


def test_rivals_sum_to_one_and_show_the_chosen_token(session, mini, reply):
    lens = w.AnswerLens(session)
    prompt = mini.encode("Describe the picture.", [SCENE.image])
    longer = px.Prompt(prompt.tokens + reply.tokens[:13], prompt.images, prompt.grids, prompt.spans)
    logits = np.array(mini.logits(longer)[-1], np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    found = lens.ask("token", token=13)
    best = np.argsort(-expected)[:6]
    assert [r["text"] for r in found["rivals"]] == [mini.tokenizer.label(int(i)) for i in best]
    assert [r["p"] for r in found["rivals"]] == pytest.approx(expected[best].tolist(), abs=1e-3)
    assert [r["chosen"] for r in found["rivals"]].count(True) == 1
    assert found["p"] == pytest.approx(expected[reply.tokens[13]], abs=1e-3)
    assert sum(r["p"] for r in found["rivals"]) + found["other"] == pytest.approx(1, abs=1e-5)


def test_temperature_and_top_p_change_the_bars_as_the_sampler_would(session, reply):
    lens = w.AnswerLens(session)
    logprobs = reply.trace.log_probabilities(13).astype(np.float64)
    order = np.argsort(-logprobs)
    hot = np.exp(logprobs / 2)
    found = lens.ask("sampling", token=13, temperature=2.0, top_p=1.0)
    expected = (hot / hot.sum())[order[:6]]
    assert found["after"] == pytest.approx(expected.tolist(), abs=1e-3)
    kept = int((np.cumsum(np.exp(logprobs[order])) < 0.95).sum()) + 1
    cut = lens.ask("sampling", token=13, temperature=1.0, top_p=0.95)
    assert cut["left"] == kept
    assert lens.ask("sampling", token=13, temperature=0, top_p=1)["after"][0] == 1


def test_the_lens_names_the_top_word_of_every_layer(session, reply):
    rows = w.AnswerLens(session).ask("lens", token=4)["layers"]
    assert [row["layer"] for row in rows] == list(range(5))
    for row in rows:
        text, p = reply.trace.logit_lens(4, row["layer"], 1)[0]
        assert row["text"] == text
        assert row["p"] == pytest.approx(p, abs=1e-3)
    assert rows[-1]["same"]
    assert rows[-1]["own"] == pytest.approx(np.exp(reply.logprobs[4]), abs=1e-3)


def test_the_chosen_word_is_shared_and_forgotten_with_the_answer():
    session = w.Session("mini", dtype="float32")
    session.ask("How many rows are there?", images=[SCENE.image])
    session.wait(60)
    lens, other = w.AnswerLens(session), w.Ablation(session)
    assert lens.at() == 0
    lens.token = 0
    assert other.token == 0
    assert session.selection["token"] == 0
    lens.layer = 2
    assert other.layer is None
    session.again(temperature=1.0, seed=3)
    session.wait(60)
    eventually(lambda: lens.token is None)
    assert session.options["seed"] == 3
    assert [m["role"] for m in session.messages] == ["user", "assistant"]
    session.close()


def test_run_again_uses_the_settings(session):
    own = w.Session("mini", dtype="float32")
    lens = w.AnswerLens(own)
    assert "ask a question" in answer_to(lens, "again")["problem"]
    own.ask("How many rows are there?", images=[SCENE.image], seed=1)
    own.wait(60)
    lens.temperature, lens.top_p = 1.5, 0.9
    assert "problem" not in answer_to(lens, "again")
    own.wait(60)
    assert (own.options["temperature"], own.options["top_p"]) == (1.5, 0.9)
    assert own.options["seed"] == 1
    own.close()


def test_knock_out_is_the_drop_without_the_strongest_patches(session, mini, reply):
    lens = w.AnswerLens(session)
    found = lens.measure("knock", 13, 0)
    (top, bottom), (left, right), share = reply.evidence(13)
    assert (found["rows"], found["columns"]) == ([top, bottom], [left, right])
    assert found["share"] == pytest.approx(share, abs=1e-4)
    prompt = mini.encode("Describe the picture.", [SCENE.image])
    longer = px.Prompt(prompt.tokens + reply.tokens[:13], prompt.images, prompt.grids, prompt.spans)
    hidden = [(r, c) for r in range(top, bottom) for c in range(left, right)]
    logits = np.array(mini.logits(longer, edits=[px.edits.MaskPatches(hidden)])[-1], np.float64)
    after = logits[reply.tokens[13]] - np.log(np.exp(logits).sum())
    assert found["drop"] == pytest.approx(reply.logprobs[13] - after, abs=1e-3)
    assert found["after"] == pytest.approx(np.exp(after), abs=1e-3)
    assert lens.known == ["knock:13:0"]
    assert lens.work == {}


def test_block_by_block_and_how_well_attention_foretells_it(session, reply):
    lens = w.AnswerLens(session)
    drops = lens.measure("occlude", 12, 0, 4)
    expected = reply.trace.model.occlusion_map("Describe the picture.", 12, 4, images=[SCENE.image])
    assert drops == pytest.approx(expected, abs=1e-3)
    found = lens.ask("occluded", token=12, image=0, block=4, layer=None, head=None)
    attention = reply.trace.image_attention(12)
    blocks = [(slice(r, r + 4), slice(c, c + 4)) for r in (0, 4) for c in (0, 4, 8)]
    pair = [[float(m[b].mean()) for b in blocks] for m in (attention, drops)]
    # Equal ones share their ranks: what no block changes is the same to the last bit.
    ranks = [[sum(b < a for b in one) + sum(b == a for b in one) / 2 for a in one] for one in pair]
    assert found["rho"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)
    assert found["top"] == pytest.approx(np.abs(expected).max(), abs=1e-3)


def test_a_map_of_rounding_does_not_look_like_much(session):
    lens = w.AnswerLens(session)
    drops = lens.measure("occlude", 3, 0, 4)
    assert np.abs(drops).max() < 0.01
    found = lens.ask("occluded", token=3, image=0, block=4, layer=None, head=None)
    assert found["top"] == 0.01


def test_long_work_stops_answers_clicks_and_is_one_at_a_time(session, monkeypatch):
    lens, steps = w.AnswerLens(session), []

    def slow(self, model, progress, token, image):
        for done in range(200):
            steps.append(done)
            time.sleep(0.01)
            progress(done, 200)

    monkeypatch.setattr(word_view.WordView, "_knock", slow)
    assert "problem" not in answer_to(lens, "knock", {"token": 2, "image": 0})
    eventually(lambda: lens.work.get("total") == 200)
    began = time.monotonic()
    assert lens.ask("token", token=3)["text"]
    assert time.monotonic() - began < 1
    second = answer_to(lens, "occlude", {"token": 2, "image": 0, "block": 2})
    assert "wait for it, or stop it" in second["problem"]
    answer_to(lens, "stop_work")
    eventually(lambda: lens.work == {})
    assert len(steps) < 150
    assert lens.known == []


def test_work_that_fails_says_why(session):
    lens = w.AnswerLens(session)
    answer_to(lens, "knock", {"token": 99, "image": 0})
    eventually(lambda: "problem" in lens.work)
    assert "token 99" in lens.work["problem"]
    with pytest.raises(RuntimeError, match="token 99"):
        lens.measure("knock", 99, 0)


@pytest.mark.parametrize(
    ("what", "arguments", "problem"),
    [
        ("look", {"token": 99, "layer": None, "head": None, "image": 0}, "token 99"),
        ("look", {"token": 0, "layer": 9, "head": None, "image": 0}, "text layer 9"),
        ("look", {"token": 0, "layer": 0, "head": 7, "image": 0}, "text head 7"),
        ("look", {"token": 0, "layer": 0, "head": 0, "image": 3}, "image 3"),
        (
            "sampling",
            {"token": 0, "temperature": -1, "top_p": 1},
            "temperature must be between 0 and 100, got -1",
        ),
        ("knock", {"token": 0}, "image"),
        ("nonsense", {}, "does not know"),
    ],
)
def test_bad_questions_are_answered(session, what, arguments, problem):
    assert problem in answer_to(w.AnswerLens(session), what, arguments)["problem"]


def test_a_page_shows_every_word_and_what_was_measured(session, reply):
    lens = w.AnswerLens(session)
    lens.measure("knock", 4, 0)
    page = lens.to_html()
    assert not ADDRESS.search(page)
    assert len(page) < 300_000
    state = json.loads(re.search(r'id="state">(.*?)</script>', page, re.DOTALL)[1])["state"]
    asked = [tuple(json.loads(key)) for key in state["saved"]]
    looks = {arguments["token"] for what, arguments in asked if what == "look"}
    assert looks == set(range(len(reply.tokens)))
    assert ("knocked", {"image": 0, "token": 4}) in asked
    lens.keep()  # a notebook keeps what is shown, no more
    assert sum('["look"' in key for key in lens.saved) == 1


def test_several_pictures_have_a_share_each_and_a_text_has_none(folder, picture):
    session = w.Session(str(folder), dtype="float32")
    images = [picture, picture.crop((0, 0, 30, 20))]
    session.ask("Which?", images=images, max_tokens=4)
    session.wait(60)
    lens = w.AnswerLens(session, token=2, image=1)
    found = lens.ask("look", token=2, layer=None, head=None, image=1)
    assert found["map"].shape == (2, 2)
    shares = session.look(lambda model: session.trace.image_shares(2)).result()
    assert found["shares"] == pytest.approx(shares, abs=1e-6)
    assert lens.measure("knock", 2, 1)["rows"][1] <= 2
    session.ask("And now?", max_tokens=3)
    session.wait(60)
    eventually(lambda: lens.state == "ready" and lens.facts["images"] == [])
    assert lens.ask("token", token=1)["rivals"]
    assert lens.to_html()
    session.close()


def test_before_any_question_there_is_nothing_and_no_error():
    session = w.Session("mini", dtype="float32")
    lens, other = w.AnswerLens(session), w.Ablation(session)
    assert lens.words == []
    assert "ask a question" in answer_to(lens, "token", {"token": 0})["problem"]
    assert "ask a question" in answer_to(other, "run")["problem"]
    assert not ADDRESS.search(lens.to_html() + other.to_html())
    session.close()


def test_a_question_is_never_taken_for_a_deed(session):
    for view in (w.AnswerLens(session), w.Ablation(session)):
        names = dir(view)
        both = [n for n in names if n.startswith("do_") and f"answer_{n[3:]}" in names]
        assert both == []
    lens = w.AnswerLens(session)
    lens.measure("knock", 5, 0)
    assert answer_to(lens, "knocked", {"token": 5, "image": 0})["data"]["rows"]
