"""Text in pictures: every script with a font that has it, in its order and joined as it is."""

import logging
import os
import struct
import unicodedata
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pixtral_mlx.interpret import fonts, letters
from pixtral_mlx.interpret.letters import Lettering
from pixtral_mlx.interpret.picture import _as_read, draw_words
from pixtral_mlx.interpret.words import close

SCRIPTS = {
    "Greek": "Ελληνικά",
    "Cyrillic": "Привет",
    "Arabic": "السلام",
    "Hebrew": "שלום",
    "Devanagari": "हिन्दी",
    "Thai": "กุ้ง",
    "Chinese": "左边",
    "Japanese": "赤い",
    "Korean": "빨간색",
    "accents": "café",
}
SIZE = 40


@pytest.fixture(scope="module", autouse=True)
def installed():
    """The fonts of these tests, which CI installs."""
    lacking = [name for name, word in SCRIPTS.items() if fonts.first_with(word) is None]
    lacking += [] if letters._shapes() else ["FriBiDi"]
    if lacking:
        reason = f"there is no font or library for {', '.join(lacking)}"
        if os.environ.get("PIXTRAL_REQUIRE_BROWSER"):
            pytest.fail(f"PIXTRAL_REQUIRE_BROWSER is set, but {reason}")
        pytest.skip(reason)


@pytest.fixture
def no_fonts(monkeypatch):
    """A system without any."""
    monkeypatch.setattr(letters, "first_with", lambda letters: None)
    letters._search.cache_clear()
    yield
    letters._search.cache_clear()


def ink(text, lettering=None):
    """How dark each column is, up to the width that is claimed, and then the rest."""
    lettering = lettering or Lettering([text])
    page = Image.new("L", (600, 90), 255)
    lettering.draw(ImageDraw.Draw(page), (0, 20), text, SIZE, "black")
    width = round(lettering.width(text, SIZE))
    columns = 255 - np.array(page).astype(int)
    return columns[:, :width], columns[:, width + 3 :]


@pytest.mark.parametrize("path", [None, *fonts.font_files()[:12]])
def test_a_font_has_what_freetype_finds_in_it(path):
    """FreeType draws the same frame, or nothing, for whatever is not there."""
    if path is None:
        font = ImageFont.load_default(24)
        table = fonts.read_letters(BytesIO(font.font_bytes))
    else:
        font = ImageFont.truetype(path, 24, layout_engine=ImageFont.Layout.BASIC)
        table = fonts.table_of(path)
    missing = bytes(font.getmask("\U0010fffd"))
    seen = [*range(0x21, 0x7F), *range(0xA1, 0x1100, 7), *range(0x4E00, 0xA000, 997), 0x1F600]
    seen = [c for c in seen if unicodedata.category(chr(c))[0] in "LNPS"]
    for code in seen:
        drawn = bytes(font.getmask(chr(code)))
        if not table.has(code):
            assert drawn == missing, hex(code)
        elif drawn == missing:  # a font may call the frame by a letter's name
            assert unicodedata.category(chr(code)) in ("So", "Lm", "Sk"), hex(code)
    assert sum(map(table.has, seen)) > 90 or path is not None


@pytest.mark.parametrize("kind", [4, 12])
def test_both_tables_of_letters_are_read(kind):
    """Two letters to glyphs, one of them to glyph 0, and none beyond."""
    if kind == 12:
        part = struct.pack(">HHIII", 12, 0, 40, 0, 2)
        part += struct.pack(">6I", 0x41, 0x42, 7, 0x1F600, 0x1F600, 9)
        there, absent = [0x41, 0x42, 0x1F600], [0x40, 0x43, 0x1F601]
    else:
        ends, starts, deltas = (0x42, 0x51, 0xFFFF), (0x41, 0x50, 0xFFFF), (5, 0, 1)
        part = struct.pack(">7H", 4, 44, 0, 6, 0, 0, 0) + struct.pack(">3HH", *ends, 0)
        part += struct.pack(">3H3H3H", *starts, *deltas, 0, 4, 0) + struct.pack(">2H", 3, 0)
        there, absent = [0x41, 0x42, 0x50], [0x40, 0x43, 0x51, 0xFFFF]
    table = fonts.LetterTable(part)
    assert [table.has(code) for code in there] == [True] * len(there)
    assert [table.has(code) for code in absent] == [False] * len(absent)


def test_what_is_no_font_has_no_letters(tmp_path):
    for name, data in [("a.ttf", b""), ("b.ttf", b"<html>" * 99), ("c.ttf", b"\0\1\0\0\0\4")]:
        (tmp_path / name).write_bytes(data)
        assert not fonts.table_of(str(tmp_path / name)).has(0x41)
    assert not fonts.table_of(str(tmp_path / "none.ttf")).has(0x41)


@pytest.mark.parametrize("word", SCRIPTS.values(), ids=SCRIPTS)
def test_every_script_is_drawn_with_a_font_that_has_it(word, caplog):
    lettering = Lettering([word])
    assert all(run.font is not None for run in lettering._runs(word))
    within, beyond = ink(word)
    assert within.any() and not beyond.any()
    # Two words with as many letters look different: neither is a row of frames.
    assert not np.array_equal(within, ink(word[::-1])[0])
    assert not caplog.records


def test_letters_are_joined_and_run_as_their_script_wants():
    lettering = Lettering(SCRIPTS.values())
    whole = lettering.width("क्षत्रिय", SIZE)
    assert whole < sum(lettering.width(letter, SIZE) for letter in "कषतरय") * 0.9
    apart = sum(lettering.width(letter, SIZE) for letter in "سلم")
    assert lettering.width("سلم", SIZE) < apart * 0.9
    first, both = ink("א", lettering)[0], ink("אב", lettering)[0]
    np.testing.assert_array_equal(both[:, -first.shape[1] + 2 :], first[:, 2:])
    boxed = ink("א\ue123", lettering)[0]  # of two runs the first is at the right
    np.testing.assert_array_equal(boxed[:, -first.shape[1] + 2 :] > 0, first[:, 2:] > 0)
    # Marks stand on their letter.
    assert lettering.width("กุ้", SIZE) == lettering.width("ก", SIZE)


def test_a_word_of_two_scripts_has_one_font_if_there_is_one():
    runs = list(Lettering(["RGB値"])._runs("RGB値"))
    assert [run.text for run in runs] == ["RGB値"] and runs[0].font
    mixed = list(Lettering([])._runs("ab\ue123हि"))
    assert [run.text for run in mixed] == ["ab", "\ue123", "हि"]
    assert [run.font is None for run in mixed] == [False, True, False]


def test_words_with_accents_look_like_their_neighbours():
    runs = [*Lettering(["café", "plain"])._runs("plain")]
    assert runs[0].font == fonts.first_with("éfac")
    assert [run.font for run in Lettering(["plain"])._runs("plain")] == [letters.BROUGHT]


def test_a_letter_without_a_font_is_its_code_point(no_fonts, caplog, monkeypatch):
    monkeypatch.setattr(letters.sys, "platform", "linux")
    words = ["中", "中文", "हि", "plain"]
    lettering = Lettering(words)
    (record,) = caplog.records  # once for a picture
    assert "U+0939" in record.message and "U+4E2D" in record.message
    assert "install fonts-noto-cjk fonts-noto-core" in record.message
    within, beyond = ink("中", lettering)
    assert within.any() and not beyond.any()
    # What stands in the box is the letter's own number.
    assert not np.array_equal(within, ink("文", lettering)[0])
    box = np.array(within > 200)
    assert box.any(axis=1).sum() >= 0.8 * SIZE


@pytest.mark.parametrize(
    ("lacking", "packages"),
    [(["中"], "fonts-noto-cjk "), (["አ"], "fonts-noto-core "), (["\ue000", "\x07"], "")],
)
def test_the_note_names_what_helps(lacking, packages, monkeypatch):
    monkeypatch.setattr(letters.sys, "platform", "linux")
    said = letters._lacking(lacking)
    assert f"install {packages}(" in said if packages else "install" not in said
    monkeypatch.setattr(letters.sys, "platform", "darwin")
    assert "install" not in letters._lacking(lacking)


def test_without_fribidi_the_order_is_right_and_a_note_says_what_is_not(monkeypatch, caplog):
    monkeypatch.setattr(letters, "_shapes", lambda: False)
    unshaped = ImageFont.Layout.BASIC
    monkeypatch.setattr(
        letters,
        "_font",
        lambda name, size: (
            ImageFont.truetype(name, size, layout_engine=unshaped)
            if name
            else ImageFont.load_default(size)
        ),
    )
    first, both = ink("א")[0], ink("אב")[0]
    np.testing.assert_array_equal(both[:, -first.shape[1] + 2 :], first[:, 2:])
    assert all("FriBiDi" in said for said in caplog.messages) and caplog.messages
    caplog.clear()
    Lettering(["Привет", "中"])
    assert not caplog.messages


def test_what_is_cut_keeps_whole_characters():
    lettering = Lettering(SCRIPTS.values())
    for word in ("हिन्दी" * 9, "กุ้ง" * 9, "e\u0301" * 60, "中" * 60):
        cut = lettering.shortened(word, 200, SIZE)
        assert cut.endswith("…") and 120 < lettering.width(cut, SIZE) <= 200
        assert word.startswith(cut[:-1])
        assert unicodedata.category(word[len(cut) - 1])[0] != "M"
    assert lettering.shortened("left", 200, SIZE) == "left"


def test_joiners_and_marks_of_direction_are_not_drawn():
    plain = ink("left")[0]
    for text in ("le\u200bft", "\u200eleft\u2069", "\ufeffleft"):
        np.testing.assert_array_equal(ink(text)[0], plain)


@pytest.mark.parametrize(
    ("words", "rightwards", "order"),
    [
        (["a", "b", "c"], True, [0, 1, 2]),
        (["שלום", "עולם"], False, [1, 0]),
        (["a", "שלום", "עולם", "b"], True, [0, 2, 1, 3]),
        (["א", "b", "c", "ד"], False, [3, 1, 2, 0]),
        (["a", "א", "12", "ב", "b"], True, [0, 3, 2, 1, 4]),
        (["12", "א"], False, [1, 0]),
        (["א", "b"], False, [1, 0]),
    ],
)
def test_words_stand_as_they_are_read(words, rightwards, order):
    assert _as_read(words, rightwards) == order


def test_words_of_scripts_without_blanks_stand_close():
    assert close("红色", "的") and close("い。", "赤")
    assert not close("RGB", "値") and not close("red", "star")


def test_a_picture_draws_the_answer(caplog):
    """Right to left: the line begins at the right."""
    image = np.zeros((3, 32, 48), np.float32)

    def look(token, image):
        return np.full((2, 3), 0.1, np.float32)

    caplog.set_level(logging.WARNING)
    pages = [
        np.array(draw_words(pieces, [-0.1] * len(pieces), [image], look).convert("L"))
        for pieces in (["שלום", " עולם"], ["左", "边"], ["left"])
    ]
    lines = [page[32:70] < 128 for page in pages]
    assert lines[0][:, -100:].any() and not lines[0][:, :100].any()
    for line in lines[1:]:
        assert line[:, :100].any() and not line[:, -100:].any()
    assert not caplog.records
