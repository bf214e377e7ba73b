"""Ids of an answer in one by one, its text out in whole characters."""

import codecs
from typing import Any


class StreamDecoder:
    """A decoder that is fed one id at a time.

    Arguments:
        tokenizer: a `Tokenizer`.

    A character of Chinese, Hindi or an emoji may take several tokens; what is not complete is
    kept back, so a replacement character appears only where the model wrote invalid bytes.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._tokens: list[int] = []
        self._written = ""

    def add(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        if token >= self._tokenizer.n_words:
            return ""
        if self._tokenizer._tekken:
            return self._utf8.decode(self._tokenizer._words.id_to_byte_piece(token))
        # SentencePiece joins its pieces by rules of its own: decode everything again and give
        # what is new (0.1 ms for a thousand tokens).
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        if text.endswith("�"):
            return ""
        new, self._written = text[len(self._written) :], text
        return new

    @property
    def pending(self) -> bool:
        """Whether an incomplete character is held back."""
        if self._tokenizer._tekken:
            return bool(self._utf8.getstate()[0])
        return self._tokenizer.decode(self._tokens) != self._written
