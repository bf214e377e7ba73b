"""In how many ways a page may spell a value: numbers with points, commas and blanks, dates by name.

What is compared is the meaning: a value is found where the page's words say the same number, the
same day, or the same letters.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from .documents import Word

MOST_WORDS = 12
"""Of a number or a date, blanks counted: "1 234 567,50 EUR", "the 3rd of May, 2024"."""
MOST_HITS = 64
"""Places that are weighed; a lonely "1" may stand anywhere."""

_MONTHS = (
    "jan january januar janvier enero gennaio januari janeiro janv ene gen",
    "feb february februar février febrero febbraio februari fevereiro févr fev",
    "mar march märz mars marzo maart março mrz",
    "apr april avril abril aprile avr abr",
    "may mai mayo maggio mei maio mag",
    "jun june juni juin junio giugno junho giu",
    "jul july juli juillet julio luglio julho juil lug",
    "aug august août agosto augustus ago",
    "sep sept september septembre septiembre settembre setembro set",
    "oct october oktober octobre octubre ottobre outubro okt ott out",
    "nov november novembre noviembre novembro",
    "dec december dezember décembre diciembre dicembre dezembro déc dic dez",
)
_MONTH_OF = {name: i for i, names in enumerate(_MONTHS, 1) for name in names.split()}
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?")
_NUMBER = re.compile(r"[-+\u2212(]?\d[\d.,'\u2019 \u00a0\u202f]*[-)]?")
_GROUPS = r"\d+|\d{{1,3}}(?:\{0}\d{{2,3}})*\{0}\d{{3}}"  # India groups by two
_AROUND = re.compile(r"^[^\w\-+\u2212(]+|[^\w)\-]+$")
_SIGN = "\u20ac$\u00a3\u00a5\u20b9"  # of currencies
_BEFORE = re.compile(rf"(?:[A-Z]{{3}}|[A-Z]{{0,2}}[{_SIGN}])?\W*")
_AFTER = re.compile(rf"(?:[{_SIGN}%\u00b0]|[A-Za-z]{{1,3}})?[.,;:)]*")
_BETWEEN = re.compile(r"[\s.,/\-\u2013]+")
_FILLERS = {"the", "of", "de", "del", "di", "den", "le", "am", "on"}

Span = tuple[int, int]
"""First word and last word + 1."""


def find_value(value: Any, words: Sequence[Word]) -> list[Span]:
    """Where words say a value, at most `MOST_HITS` places; none for true and false, which no page
    spells."""
    texts = [text for text, _ in words]
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        return _first(_numbers(float(value), texts))
    text = str(value)
    if found := _first(_letters(text, texts)):
        return found
    if day := _ISO.fullmatch(text.strip()):
        year, month, date = map(int, day.groups())
        return _first(_dates((year, month, date), texts))
    if _NUMBER.fullmatch(text.strip()) and (meanings := numbers_of(text)):
        return _first(span for each in meanings for span in _numbers(each, texts))
    return []


def _first(spans: Iterator[Span]) -> list[Span]:
    found: dict[Span, None] = {}
    for span in spans:
        found[span] = None
        if len(found) == MOST_HITS:
            break
    return [*found]


# Letters ---------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Letters and digits alone, of one case and one width."""
    return "".join(
        letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum()
    )


def _letters(text: str, texts: Sequence[str]) -> Iterator[Span]:
    """Runs of whole words with these letters, whatever blanks and marks stand between them."""
    wanted = _plain(text)
    if not wanted:
        return
    plain = [_plain(word) for word in texts]
    for start, first in enumerate(plain):
        if not first or not wanted.startswith(first):
            continue
        so_far, end = "", start
        while end < len(plain) and len(so_far) < len(wanted):
            so_far += plain[end]
            end += 1
        if so_far == wanted:
            yield start, end


# Numbers ---------------------------------------------------------------------------------------


def numbers_of(text: str) -> set[float]:
    """What a number may mean: "1.234" is 1234 in Germany and 1.234 elsewhere."""
    text = _AROUND.sub("", text.strip())
    negative = text[:1] in "-\u2212(" or text[-1:] in "-)"
    digits = re.sub(r"[^\d.,]", "", text)
    if not digits or not digits[0].isdigit():
        return set()
    found = set()
    for mark, other in ((".", ","), (",", ".")):
        whole, point, rest = digits.rpartition(mark)
        if not point:
            whole, rest = digits, ""
        grouped = re.fullmatch(_GROUPS.format(other), whole)
        if grouped and mark not in whole and other not in rest:
            found.add(float(f"{whole.replace(other, '')}.{rest or 0}"))
    return {-each for each in found} if negative else found


def _numbers(value: float, texts: Sequence[str]) -> Iterator[Span]:
    """A number in one word or in several ("1 234,50"), with its unit at it or not."""
    for start, word in enumerate(texts):
        if not any(letter.isdigit() for letter in word):
            continue
        text = ""
        for end in range(start + 1, min(start + MOST_WORDS, len(texts)) + 1):
            more = texts[end - 1]
            if end > start + 1 and not re.fullmatch(r"\d{3}(?:[.,]\d+)?\D{0,3}", more):
                break
            text += more
            if _means(text, value):
                yield start, end


def _means(text: str, value: float) -> bool:
    found = _NUMBER.search(text)
    if found is None:
        return False
    before, after = text[: found.start()], text[found.end() :]
    if not _BEFORE.fullmatch(before) or not _AFTER.fullmatch(after):
        return False  # a number within a word: "A17-4"
    meanings = numbers_of(found[0])
    if "%" in after and abs(value) <= 1:
        meanings |= {each / 100 for each in meanings}
    return any(abs(each - value) <= 1e-9 * max(1.0, abs(value)) for each in meanings)


# Dates -----------------------------------------------------------------------------------------


def _dates(day: tuple[int, int, int], texts: Sequence[str]) -> Iterator[Span]:
    for start, first in enumerate(texts):
        if not (first[:1].isdigit() or _month(first)):
            continue
        said: list[str] = []
        for end in range(start + 1, min(start + MOST_WORDS, len(texts)) + 1):
            said += [part for part in _BETWEEN.split(texts[end - 1].strip("()[];:")) if part]
            parts = [part for part in said if part.lower() not in _FILLERS]
            if len(parts) > 3:
                break
            if day in _days_of(parts):
                yield start, end
                break


def _month(word: str) -> int | None:
    return _MONTH_OF.get(word.casefold().strip("."))


def _days_of(parts: Sequence[str]) -> set[tuple[int, int, int]]:
    """The days that some parts may mean, as (year, month, day)."""
    if len(parts) == 1 and re.fullmatch(r"\d{8}", parts[0]):
        text = parts[0]
        parts = text[:4], text[4:6], text[6:]
    if len(parts) != 3:
        return set()
    values: list[int] = []
    named = None
    for i, part in enumerate(parts):
        if (month := _month(part)) is not None:
            named = i
            values.append(month)
        elif digits := re.fullmatch(r"(\d{1,4})(?:st|nd|rd|th|er|º|°)?", part.lower()):
            values.append(int(digits[1]))
        else:
            return set()
    a, b, c = values
    if named is not None:
        orders = [(c, b, a), (a, b, c)] if named == 1 else [(c, a, b)] if named == 0 else []
    elif len(parts[0]) == 4:
        orders = [(a, b, c)]
    else:
        orders = [(c, b, a), (c, a, b)]
    return {(_full(year), month, day) for year, month, day in orders if month <= 12 and day <= 31}


def _full(year: int) -> int:
    """A year of two digits, as it is meant."""
    return year if year > 99 else year + (2000 if year < 70 else 1900)
