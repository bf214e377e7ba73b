"""Which tokens are a word, in scripts with blanks and without."""

import pytest

from pixtral_mlx.interpret import words_of


def test_words_are_grouped_from_tokens():
    words = words_of([" The", " bar", "s", ",", " 4", "2", "\n", "End"])
    assert [word.text for word in words] == ["The", "bars,", "42", "End"]
    assert [word.tokens for word in words] == [[0], [1, 2, 3], [4, 5], [6, 7]]
    assert words_of([]) == words_of(["", " "]) == []


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["Two", "\n", "lines"], {"Two": [0], "lines": [1, 2]}),
        (["One.\n", "Two"], {"One.": [0], "Two": [1]}),
        (["end ", "next"], {"end": [0], "next": [1]}),
        (["左", "边", "是", "红色"], {"左": [0], "边": [1], "是": [2], "红色": [3]}),
        (["赤", "い", "。", "次"], {"赤": [0], "い。": [1, 2], "次": [3]}),
        (["สี", "แดง", "\u0e48"], {"สี": [0], "แดง\u0e48": [1, 2]}),
        (["", "", "边", "", "是"], {"边": [0, 1, 2], "是": [3, 4]}),
        (["a ", "", "é"], {"a": [0], "é": [1, 2]}),
        (["x", "", ""], {"x": [0, 1, 2]}),
        ([" लाल", "\u0940", " और"], {"लाल\u0940": [0, 1], "और": [2]}),
        (["빨간", "색", " 원"], {"빨간색": [0, 1], "원": [2]}),
        (["RGB", "值"], {"RGB": [0], "值": [1]}),
        (["", ""], {}),
    ],
)
def test_what_a_reader_calls_a_word(pieces, words):
    found = words_of(pieces)
    assert {word.text: word.tokens for word in found} == words
    assert len(found) == len(words)
