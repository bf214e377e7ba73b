"""Drafts: what followed the same words before, and how many of them pay."""

import numpy as np

from pixtral_mlx.engine.lookup import RECENT_DRAFTS, Drafter


def test_drafts_are_what_followed_the_latest_longest_match():
    """Against a search through all places, on random sequences of few words."""
    random = np.random.RandomState(0)
    drafted = 0
    for _ in range(300):
        tokens = random.randint(0, random.randint(2, 7), random.randint(1, 40)).tolist()
        expected = []
        for n in (3, 2):
            starts = [
                at
                for at in range(n, len(tokens))
                if tokens[at - n : at] == tokens[len(tokens) - n :]
            ]
            if starts and len(tokens) >= n:
                expected = list(tokens)
                for at in range(starts[-1], starts[-1] + 5):
                    expected.append(expected[at])
                expected = expected[-5:]
                break
        assert Drafter(tokens, 5).draft(9) == expected, tokens
        assert Drafter(tokens, 9).draft(2) == expected[:2]
        assert Drafter(tokens, 5).draft(0) == []
        drafted += bool(expected)
    assert 100 < drafted < 300


def test_the_length_of_drafts_follows_their_success():
    drafter = Drafter([1, 2] * 9, 6)
    lengths = []
    for accepted in (6, 2, 0, 0, 0, 0, 0, 0, 1, 3, 4):
        lengths.append(len(drafter.draft(99)))
        drafter.judge(lengths[-1], min(accepted, lengths[-1]))
    assert lengths == [6, 6, 5, 4, 3, 2, 1, 1, 1, 3, 5]
    drafter.judge(0, 0)
    assert len(drafter.draft(99)) == 4


def test_drafting_pays_while_enough_of_the_recent_drafts_is_accepted():
    drafter = Drafter([], 4)
    for _ in range(RECENT_DRAFTS - 1):
        drafter.judge(4, 0)
        assert drafter.pays
    drafter.judge(4, 4)
    assert not drafter.pays
    drafter = Drafter([], 4)
    for number in range(200):
        drafter.judge(4, number % 4 == 0)
        assert drafter.pays
