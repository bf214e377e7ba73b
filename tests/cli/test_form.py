"""`generate` and `batch` with `--schema` and `--regex`."""

import csv
import json

import jsonschema
import pytest
from cases import picture
from checkpoints import make_official

from pixtral_mlx import cli

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["tea", "coffee"]},
        "page": {"type": "integer", "minimum": 1, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a, b", "ü"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["kind", "page", "tags"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, three pictures and a schema."""
    folder = tmp_path_factory.mktemp("forms")
    make_official(folder / "model", vision={"image_size": 64})
    for n in range(3):
        picture(40, 30 + n, seed=n).save(folder / f"{n}.png")
    (folder / "s.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Run a command in that folder: (status, stdout, stderr)."""
    monkeypatch.chdir(place)

    def main(*words):
        status = cli.main([*words, "--model", "model"])
        return status, *capsys.readouterr()

    return main


def test_generate_prints_the_json_and_nothing_else(run):
    words = ("generate", "--image", "0.png", "--prompt", "What?", "--schema", "s.json")
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    jsonschema.validate(json.loads(out), SCHEMA)
    status, out, _ = run(*words, "--json")
    reply = json.loads(out)
    assert status == 0 and reply["parsed"] == json.loads(reply["text"])
    assert len(reply["allowed_mass"]) == len(reply["tokens"]) and reply["parse_error"] is None


def test_a_cut_answer_prints_nothing_and_says_why(run):
    words = ("generate", "--image", "0.png", "--prompt", "What?", "--schema", "s.json")
    status, out, err = run(*words, "--max-tokens", "5")
    assert (status, out) == (1, "")
    assert err.endswith(
        "the answer was cut after 5 tokens, before its end: give more --max-tokens\n"
    )
    assert err.count("\n") == 1
    status, out, _ = run(*words, "--max-tokens", "5", "--json")
    assert status == 1 and json.loads(out)["parsed"] is None


def test_generate_chooses_by_a_pattern(run):
    words = ("generate", "--image", "0.png", "--prompt", "What?", "--regex", "(red|blue)-[0-9]{2}")
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    assert out.startswith(("red-", "blue-")) and out[-3:-1].isdigit()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "none.json: No such file or directory: check the name"),
        ("{", "none.json: not JSON ("),
        ("[1]", "none.json: not a JSON schema, which is an object"),
        ('{"type": "array", "uniqueItems": true}', "none.json: #: uniqueItems cannot be enforced"),
    ],
)
def test_a_schema_that_cannot_be_used_is_one_line(place, refused, monkeypatch, written, said):
    monkeypatch.chdir(place)
    if written is not None:
        (place / "none.json").write_text(written)
    words = ("--prompt", "What?", "--schema", "none.json", "--model", "model")
    refused(1, said, "generate", "--image", "0.png", *words)
    refused(1, said, "batch", "0.png", "-o", "out.jsonl", *words)


def test_both_at_once_is_a_mistake_of_usage(place, refused, monkeypatch):
    monkeypatch.chdir(place)
    refused(2, "not allowed with", "generate", "-p", "a", "--schema", "s.json", "--regex", "a")


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_row_s_answer_is_an_object(run, place, tmp_path, ending):
    out = tmp_path / f"out.{ending}"
    words = ("batch", "0.png", "1.png", "--prompt", "What?", "--schema", "s.json", "-o", str(out))
    assert run(*words)[0] == 0
    if ending == "csv":
        with out.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [*rows[0]][-3:] == ["kind", "answer.page", "tags"]
        for row in rows:
            answer = json.loads(row["answer"])
            jsonschema.validate(answer, SCHEMA)
            assert row["kind"] == answer["kind"] and row["answer.page"] == str(answer["page"])
            assert json.loads(row["tags"]) == answer["tags"] and row["page"] == ""
    else:
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            jsonschema.validate(row["answer"], SCHEMA)
            assert row["error"] is None and row["options"]["schema"] == SCHEMA
    before = out.read_bytes()
    assert run(*words, "2.png")[0] == 0, "it goes on with what is there"
    assert out.read_bytes().startswith(before) and len(out.read_bytes()) > len(before)
    other = place / "other.json"
    other.write_text(json.dumps(SCHEMA | {"title": "another"}))
    words = [str(other) if word == "s.json" else word for word in words]
    status, _, err = run(*words)
    assert status == 1 and "was made with options" in err


def test_a_cut_row_has_no_answer_and_says_why(run, tmp_path):
    out = tmp_path / "out.jsonl"
    words = ("batch", "0.png", "--prompt", "What?", "--schema", "s.json", "-o", str(out))
    status, _, err = run(*words, "--max-tokens", "4")
    row = json.loads(out.read_text())
    assert status == 1 and row["answer"] is None
    assert row["error"] == "the answer was cut after 4 tokens, before its end"
    assert "0.png: the answer was cut" in err
