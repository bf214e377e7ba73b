"""Which tokens of an answer are a word, as a reader of its script would say."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# Thai, Lao, Tibetan, Burmese, Khmer, kana and Chinese characters: no blanks stand between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)

# With the full stops and brackets of the same scripts.
_SET_CLOSE = re.compile(f"{_UNSPACED.pattern}|[\u3000-\u303f\uff01-\uff65]")


def close(before: str, after: str) -> bool:
    """Whether two words of a text stand without a blank between them, by their scripts."""
    return bool(_SET_CLOSE.match(before[-1]) and _SET_CLOSE.match(after[0]))


class Word(NamedTuple):
    """A word of an answer and the tokens that it is made of."""

    text: str
    tokens: list[int]


def words_of(pieces: Sequence[str]) -> list[Word]:
    """Group the texts of tokens into words.

    A word begins at a blank or a line end, and behind one. In a script that is written without
    blanks each token is a word. Marks belong to the letter before them, and a token that ends
    inside a character, whose text is empty, to the word of the character.

    Returns:
        The words, without blanks around them; what is blank alone belongs to the word that follows.
    """
    words: list[Word] = []
    begun: list[int] = []  # tokens of a character that is not complete yet
    for number, piece in enumerate(pieces):
        begun.append(number)
        if not piece:
            continue
        if not words or _begins(piece, words[-1].text):
            words.append(Word("", []))
        words[-1] = Word(words[-1].text + piece, words[-1].tokens + begun)
        begun = []
    if words:
        words[-1].tokens.extend(begun)
    return [Word(word.text.strip(), word.tokens) for word in words if word.text.strip()]


def _begins(piece: str, before: str) -> bool:
    """Whether a piece begins a word behind the text of the last one."""
    first, last = piece[0], before[-1]
    if first.isspace():
        return True
    if not before.strip():
        return False
    if last.isspace():
        return True
    letter = unicodedata.category(first)[0] not in "MP"
    return letter and bool(_UNSPACED.match(first) or _UNSPACED.match(last))
