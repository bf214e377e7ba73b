"""Simon Willison's `llm`, with the models file that docs/apps.md shows."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import BASE_URL, PICTURE, QUESTION, TEXT, Rows, tell

PAGE = (Path(__file__).parents[3] / "docs" / "apps.md").read_text()
MODELS = re.findall(r"```yaml\n(- model_id.*?)```", PAGE, re.DOTALL)[0]
MODELS = MODELS.replace("http://127.0.0.1:8000/v1", BASE_URL)
FUNCTIONS = '''
import typing

def report_rows(rows: typing.Literal["one", "two", "three"]) -> str:
    """Report the number of rows."""
    with open("calls", "a") as file:
        print(rows, file=file)
    return "reported"
'''
CALL = '{"9": 100}'
"""Whether to call is the model's choice; it cannot be forced here, and pixtral-mini was not taught
to, so the token that begins a call is made likely."""

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "extra-openai-models.yaml").write_text(MODELS)

    def llm(*arguments: str, ends: bool = True) -> str:
        found = subprocess.run(
            [sys.executable, "-m", "llm", *arguments], cwd=folder, capture_output=True, text=True,
            env={**os.environ, "LLM_USER_PATH": folder}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if ends and found.returncode:
            raise SystemExit(f"llm {arguments}: {found.stderr}")
        return found.stdout.strip()

    ask = ("-m", "pixtral", "-a", str(PICTURE), QUESTION)
    schema = llm(*ask, "--schema", "rows int")
    called = ("--functions", FUNCTIONS, "-o", "logit_bias", CALL, "--chain-limit", "2")
    llm(*ask, *called, ends=False)  # it calls and calls, and so stops at the limit
    rows = Path(folder, "calls").read_text().split()
    tell(
        text=llm("-m", "pixtral", TEXT),
        picture=llm(*ask, "--no-stream"),
        stream=llm(*ask),
        schema=isinstance(Rows.model_validate_json(schema), Rows),
        tools=[("report_rows", {"rows": row}) for row in rows[:1]],
    )
