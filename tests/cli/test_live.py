"""`pixtral-mlx live`: a page, or one line that says why there is none."""

import pytest
from checkpoints import HEIR_VISION, MINISTRAL_TEXT, make_official

from pixtral_mlx.cli import live_page, main

OTHERS = {
    "blind": ({"vision": False}, "has no vision encoder"),
    "heir": ({"vision": HEIR_VISION}, "merges patches, as Pixtral's heirs do"),
    "stretched": ({"text": {"yarn": MINISTRAL_TEXT["yarn"]}}, "stretches its positions (yarn)"),
    "pieces": ({"tokenizer": "spm", "text": {"vocab_size": 32_768}}, "not SentencePiece"),
    "wordless": ({"tokenizer": None}, "no tekken.json"),
}
"""Models that a page cannot hold, and what is said of each."""


@pytest.mark.parametrize("kind", OTHERS)
def test_models_that_do_not_fit_are_one_line(refused, tmp_path, kind):
    sizes, said = OTHERS[kind]
    make_official(tmp_path / kind, **sizes)
    refused(1, said, "live", "-m", tmp_path / kind, "-o", tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == [kind]


def test_a_model_that_is_too_large_is_one_line(refused, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(live_page, "LARGEST_BYTES", 100_000)
    said = "of weights; allowed: up to 0.1 MB"
    refused(1, said, "live", "-m", folder, "-o", tmp_path / "page.html")


@pytest.mark.parametrize(
    ("status", "said", "words"),
    [
        (2, "the following arguments are required: -o/--output", []),
        (1, "page.txt: not the name of a page; give one that ends in .html", ["-o", "page.txt"]),
        (1, "taken.html: already exists", ["-o", "taken.html"]),
        (1, "there is no folder", ["-o", "no/page.html"]),
        (1, "nobody/none: no such folder; give mini", ["-o", "a.html", "-m", "nobody/none"]),
    ],
)
def test_mistakes_are_one_line(refused, tmp_path, monkeypatch, status, said, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.html").write_text("mine")
    refused(status, said, "live", *words)
    assert (tmp_path / "taken.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken.html"]


def test_a_page_of_another_model_is_written_and_names_it(folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["live", "--model", str(folder), "--output", str(page)]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.startswith(f"written: {page} (")
    text = page.read_text(encoding="utf-8")
    assert f'"name":"{folder.name}"' in text
    assert text.count("<script") == 5 == text.count("</script>")  # no text ends one of them
