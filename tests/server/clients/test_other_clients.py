"""The clients that CI does not install, each in an environment of its own: `make test-clients`.

A script asks with its client what `common.py` (or `common.mjs`) says, as the client's documentation
shows it with address and model changed, and prints what it got as one line of JSON.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TEXT = "What is a star?"
QUESTION = "What do you see in row 2, column 1?"
WORDS = ("one", "two", "three")

pytestmark = pytest.mark.skipif(
    not os.environ.get("PIXTRAL_REQUIRE_CLIENTS"), reason="make test-clients installs and asks them"
)

ALWAYS = {"text", "picture", "schema"}
STREAM = ALWAYS | {"stream"}
TOOLS = STREAM | {"tools", "streamed_tools", "after_tools"}
USAGE = TOOLS | {"usage", "streamed_usage"}
CLIENTS = {
    "openai-3/langchain_openai": USAGE,
    "openai-3/langchain_mistralai": USAGE,
    "openai-3/litellm openai": USAGE | {"listing"},
    "openai-3/litellm mistral": USAGE,
    "openai-3/pydantic_ai openai": USAGE,
    "openai-3/pydantic_ai mistral": USAGE,
    "openai-3/llm": STREAM | {"tools"},
    "openai-2/llama_index": TOOLS | {"usage"},
    "openai-2/instructor tools": ALWAYS | {"streamed_schema"},
    "openai-2/instructor json_schema": ALWAYS | {"streamed_schema"},
    "node/openai": USAGE | {"listing"},
    "node/mistral": USAGE | {"listing"},
    "node/ai openai": USAGE,
    "node/ai mistral": USAGE,
    "node/ai responses": USAGE,
}
"""{environment/client and, if it has several, way: what it can do}."""


def command(client: str) -> list[str]:
    environment, _, name = client.partition("/")
    script, *way = name.split()
    if environment == "node":
        return ["node", str(HERE / f"ask_{script}.mjs"), *way]
    return [str(HERE / f".{environment}/bin/python"), str(HERE / f"ask_{script}.py"), *way]


@pytest.fixture(scope="module")
def picture(drawing, tmp_path_factory):
    path = tmp_path_factory.mktemp("asked") / "scene.png"
    drawing[1].image.save(path)
    return path


def reported(calls: list) -> bool:
    """Whether there is one call, of the tool that was offered, as its schema says."""
    ((name, arguments),) = calls
    return (name, [*arguments]) == ("report_rows", ["rows"]) and arguments["rows"] in WORDS


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_what_it_asks_for(server, about, drawing, picture, client, tmp_path):
    program, script, *way = command(client)
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    asked = subprocess.run(
        [program, script, server.address, str(picture), *way],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**kept, "HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr[-3000:]
    found = json.loads(asked.stdout.splitlines()[-1])
    for kind in found.keys() & {"tools", "streamed_tools"}:
        found[kind] = reported(found[kind])
    if "after_tools" in found:  # pixtral-mini was not taught what to say then
        found["after_tools"] = isinstance(found["after_tools"], str | None)

    (answer,) = (each.answer for each in drawing[1].questions if each.text == QUESTION)
    tokens = server.post({"messages": about(QUESTION)}).json()["usage"]["total_tokens"]
    expected = {
        "text": server.ask(TEXT)["choices"][0]["message"]["content"],
        "picture": answer, "stream": answer, "schema": True, "streamed_schema": True,
        "tools": True, "streamed_tools": True, "after_tools": True,
        "usage": tokens, "streamed_usage": tokens, "listing": ["pixtral-mini"],
    }  # fmt: skip
    assert found == {kind: expected[kind] for kind in CLIENTS[client]}
