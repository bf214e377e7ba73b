"""PDFs that are locked: what opens them, and where the password never stands."""

import json

import pytest
from checkpoints import make_official
from pdfs import make_locked

import pixtral_mlx as px
from pixtral_mlx import cli

SECRET = "pass wörd 7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_official(tmp_path_factory.mktemp("locked") / "model", vision={"image_size": 64})


@pytest.fixture
def locked(tmp_path):
    path = tmp_path / "locked.pdf"
    path.write_bytes(make_locked(SECRET, (50, 50), (40, 40)))
    return path


def test_the_password_opens_it_wherever_pictures_are_given(folder, locked):
    model = px.load(folder, dtype="float32")
    options = px.ImageOptions(pdf_password=SECRET)
    prompt = model.encode("?", [locked], pdf_password=SECRET)
    assert len(prompt.images) == 2
    assert model.encode("?", [locked], image_options=options).tokens == prompt.tokens
    short = {"max_tokens": 1, "pdf_password": SECRET}
    assert model.generate("?", images=[locked], **short).stats.prompt_tokens == len(prompt.tokens)
    request = {"messages": "?", "images": [locked], "pdf_password": SECRET}
    assert model.generate_batch([request], max_tokens=1)[0].stats.prompt_tokens
    # What is not locked does not ask for it.
    assert len(model.encode("?", [f"{locked}#page=2"], pdf_password=SECRET).images) == 1


def test_without_it_and_with_another_are_two_sentences(folder, locked):
    model = px.load(folder, dtype="float32")
    for password, said in (
        (None, r"locked\.pdf: locked: give its password by pdf_password= or --pdf-password-file$"),
        ("", r"locked\.pdf: locked, and the password that was given does not open it: check it$"),
        ("other 8", "locked, and the password that was given does not open it"),
    ):
        with pytest.raises(px.ImageError, match=said) as caught:
            model.encode("?", [locked], pdf_password=password)
        assert "other" not in repr(caught.value) + repr(caught.value.__cause__)
    with pytest.raises(ValueError, match=r"^pdf_password must be a string or None, got int$"):
        px.ImageOptions(pdf_password=73)
    assert SECRET not in repr(px.ImageOptions(pdf_password=SECRET))


def test_commands_read_it_from_a_file(folder, locked, tmp_path, capsys):
    secret = tmp_path / "secret"
    rows = tmp_path / "rows.jsonl"
    asked = ["--model", str(folder), "--prompt", "?", "--max-tokens", "1"]
    batch = ["batch", str(locked), *asked, "-o", str(rows), "--per-page"]
    generate = ["generate", "--image", str(locked), *asked, "--json"]
    for content in (f"{SECRET}\n", f"\ufeff{SECRET}\r\nmore", SECRET):
        secret.write_text(content, encoding="utf-8", newline="")
        given = ["--pdf-password-file", str(secret)]
        assert cli.main([*generate, *given]) == 0
        assert cli.main(["inspect", str(locked), "--json", *given]) == 0
        assert cli.main([*batch, "--overwrite", *given]) == 0
        assert [row["page"] for row in map(json.loads, rows.read_text().splitlines())] == [1, 2]
        assert SECRET not in rows.read_text() + "".join(capsys.readouterr())
        assert str(secret) not in rows.read_text()
    assert cli.main(["inspect", str(locked)]) == 1
    assert "locked: give its password" in capsys.readouterr().err
    for content, said in ((b"\xff\xfe", "not UTF-8 text"), (None, "No such file")):
        secret.unlink() if content is None else secret.write_bytes(content)
        assert cli.main(["inspect", str(locked), "--pdf-password-file", str(secret)]) == 1
        assert f"--pdf-password-file {secret}: {said}" in capsys.readouterr().err
