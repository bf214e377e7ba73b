"""Mistakes made on purpose in the views of answers: the tests of those views notice each."""

import mlx.core as mx
import numpy as np
import pytest
from noticing import load_tests
from views import SCENE

import pixtral_mlx_widgets as w
from pixtral_mlx.engine import sampling
from pixtral_mlx.interpret import occlusion
from pixtral_mlx_widgets import ablation, answer_lens, word_view

answers, ablations = load_tests("widgets/test_answers"), load_tests("widgets/test_ablation")
compared = load_tests("interpret/test_compare")


@pytest.fixture
def fresh_session():
    """A session for one mistake."""
    session = w.Session("mini", dtype="float32")
    session.ask("Describe the picture.", images=[SCENE.image])
    session.wait(60)
    yield session
    session.close()


def look_one_token_late(patch):
    look = word_view.WordView.answer_look

    def wrong(self, model, token, layer, head, image):
        return look(self, model, token + 1, layer, head, image)

    patch.setattr(word_view.WordView, "answer_look", wrong)


def look_at_another_head(patch):
    look = word_view.WordView.answer_look

    def wrong(self, model, token, layer, head, image):
        return look(self, model, token, layer, None if head is None else (head + 1) % 4, image)

    patch.setattr(word_view.WordView, "answer_look", wrong)


def map_reversed(patch):
    heat = word_view.heat
    patch.setattr(word_view, "heat", lambda values: heat(values[::-1]))


def words_only_at_the_end(patch):
    patch.setattr(word_view, "SECONDS_BETWEEN_WORDS", 1e9)


def temperature_before_top_p(patch):
    filtered = sampling._filtered
    patch.setattr(
        sampling, "_filtered",
        lambda logprobs, options: filtered(
            logprobs / 1.5 - float(mx.logsumexp(mx.array(logprobs / 1.5))), options
        ) * 1.5,
    )  # fmt: skip


def nothing_is_hidden(patch):
    patch.setattr(occlusion.MaskPatches, "change", lambda self, value, at: value)


def only_the_chosen_word_is_kept(patch):
    patch.setattr(answer_lens.AnswerLens, "to_html", word_view.WordView.to_html)


def second_run_without_edits(patch):
    write = ablation.Ablation._write
    patch.setattr(
        ablation.Ablation,
        "_write",
        lambda self, session, epoch, edits: write(self, session, epoch, ()),
    )


def look(session, model, reply):
    answers.test_look_is_the_row_of_the_trace(session, reply, 7, 2, 1)


def words(session, model, reply):
    answers.test_words_come_while_they_are_written_and_not_too_often()


def draws(session, model, reply):
    compared.test_probabilities_are_those_that_generate_draws_from(
        {"temperature": 1.5, "top_p": 0.6}
    )


def knock(session, model, reply):
    # Edits of the reference run go another way than those of the occlusion under test.
    lens = w.AnswerLens(session)
    drops = lens.measure("occlude", 13, 0, 4)
    assert np.abs(drops).max() > 1e-4


def page(session, model, reply):
    answers.test_a_page_shows_every_word_and_what_was_measured(session, reply)


def runs(session, model, reply):
    ablations.test_two_runs_are_compared_word_by_word(session, model, reply)


FAULTS = {
    look_one_token_late: look, look_at_another_head: look, map_reversed: look,
    words_only_at_the_end: words, temperature_before_top_p: draws, nothing_is_hidden: knock,
    only_the_chosen_word_is_kept: page, second_run_without_edits: runs,
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_mistake_is_noticed(fresh_session, mini, reply, monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        FAULTS[fault](fresh_session, mini, reply)


@pytest.mark.parametrize("check", sorted(set(FAULTS.values()), key=lambda c: c.__name__))
def test_control_without_a_mistake(fresh_session, mini, reply, check):
    check(fresh_session, mini, reply)
