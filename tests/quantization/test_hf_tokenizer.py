"""The tokenizer of a converted folder: transformers' files say what mistral-common says."""

import errno
import json
import shutil

import checkpoints
import pytest

import pixtral_mlx as px
from pixtral_mlx.errors import CheckpointError
from pixtral_mlx.inputs.tokenizer_file import shipped_tekken
from pixtral_mlx.quantization import hf_tokenizer
from pixtral_mlx.quantization.conversion import convert


def test_the_words_of_tokenizer_json_are_those_of_mistral_common(official, tmp_path):
    transformers = pytest.importorskip("transformers")
    convert(official, tmp_path / "out")
    # Found through the configuration, as mlx-vlm does, with mistral-common installed.
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = px.load(tmp_path / "out")
    ids = {"<s>": 1, "</s>": 2, "[INST]": 3, "[IMG]": 10, "<pad>": 11, "[IMG_BREAK]": 12}
    assert {word: words.convert_tokens_to_ids(word) for word in ids} == ids
    for text in ("Hello  there\n\tyou", "日本語 한국어 العربية", "naïve 👩‍👧 12.5"):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": text},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And?"},
        ]
        theirs = words.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert theirs == model.encode(messages).tokens


def test_a_folder_without_a_tokenizer_converts_and_says_so(tmp_path):
    source = checkpoints.make_official(tmp_path / "source", tokenizer=None)
    result = convert(source, tmp_path / "out")
    assert "tekken.json" in result.notes[0]
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_the_chat_template_is_that_of_the_whole_tekken_file():
    from mistral_common.integrations.chat_templates.chat_templates import (
        convert_tokenizer_to_chat_template,
    )

    file = shipped_tekken()
    whole = convert_tokenizer_to_chat_template(str(file))
    assert "[IMG]" in whole
    assert hf_tokenizer._tekken_template(file) == whole


def tokenizer_files(folder):
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_large_tokenizer_is_converted_by_a_process_of_its_own(official, tmp_path, monkeypatch):
    convert(official, tmp_path / "here")
    monkeypatch.setattr(hf_tokenizer, "SMALL_BYTES", 0)
    monkeypatch.setattr(hf_tokenizer, "_here", lambda _: 1 / 0)
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the working folder')")
    monkeypatch.chdir(tmp_path)
    convert(official, tmp_path / "there")
    assert tokenizer_files(tmp_path / "there") == tokenizer_files(tmp_path / "here")
    configs = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("here", "there")]
    assert configs[0] == configs[1]
    assert configs[0]["bos_token_id"] == 1


def test_what_goes_wrong_in_that_process_is_said_in_one_line(official, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_tokenizer, "SMALL_BYTES", 0)
    file = tmp_path / "tekken.json"
    shutil.copyfile(official / "tekken.json", file)
    (tmp_path / "tokenizer_config.json").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        hf_tokenizer.write_hf_tokenizer(file)
    assert caught.value.errno == errno.EISDIR
    assert caught.value.filename == str(tmp_path / "tokenizer_config.json")
    file.write_text('{"vocab": []}')
    with pytest.raises(
        CheckpointError, match=r"tekken\.json: not a tokenizer \(config is None"
    ) as caught:
        hf_tokenizer.write_hf_tokenizer(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tekken", "spm"])
def test_transformers_4_opens_the_files_too(tmp_path, kind):
    """4.57 knows none of the classes that 5 writes but this one, and no list of special words."""
    words = pytest.importorskip("transformers")
    source = checkpoints.make_official(
        tmp_path / "source", text={"n_layers": 1}, tokenizer=kind, vision={"num_hidden_layers": 1}
    )
    convert(source, tmp_path / "out", group_size=32)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    lists = [key for key, value in settings.items() if isinstance(value, list)]
    assert not lists
    tokenizer = words.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = px.load(tmp_path / "out").encode("Hi [INST] there").tokens
    specials = [token for token in prompt if token < 20]
    assert specials == [1, 3, 4]
    text = "Hi [INST] there"
    assert tokenizer.decode(prompt, skip_special_tokens=True).strip() == text
    assert "[INST]" not in tokenizer.decode([*specials, 10], skip_special_tokens=True)
