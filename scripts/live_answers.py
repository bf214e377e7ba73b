"""Ask the live page and Python the same questions, and compare the answers.

    python scripts/live_answers.py                      # 1,000 questions of newly drawn scenes
    python scripts/live_answers.py --questions 100 --page docs/live.html

The page runs in a browser without a window; Python computes in float32. The tokens of question and
answer must be the same, but for ties; log-probabilities and rows of attention may differ a little.
"""

import argparse
import base64
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

import pixtral_mlx as px
from pixtral_mlx.cli import main as pixtral
from pixtral_mlx.mini import Question, scene
from pixtral_mlx.mini.evaluation import FIRST_SEED
from pixtral_mlx_widgets.page import FLAGS, find_browser

LOGPROBS, ROWS = 1e-3, 1e-4
"""How far log-probabilities and shares of attention may be apart."""

TIE = 1e-3
"""Nats between the two likeliest tokens; what is closer is a tie."""

PER_SCENE = 3
VISION, TEXT = {"layer": 2, "head": 1, "patch": 1}, {"layer": 3, "head": 1}
"""The rows that are compared: of a patch of the last picture, and of each word."""

ASK = """async ([text, pictures, patch, token]) => {
    const model = document.getElementById("page").model, name = "compared";
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const shown = pictures.map(({ pixels, ...grid }) =>
        ({ ...grid, pixels: new Float32Array(bytes(pixels).buffer) }));
    let prompt;
    const hear = (part) => { prompt ??= part.prompt; };
    const done = await model("ask", { name, text, pictures: shown }, hear);
    const [vision, ...words] = await Promise.all([
        model("patch", { name, ...patch, picture: shown.length - 1 }),
        ...done.tokens.map((_, n) =>
            model("token", { name, ...token, position: prompt.tokens.length - 1 + n })),
    ]);
    const rows = { vision: [...vision.row], words: words.map(({ row }) => [...row]) };
    return { prompt: prompt.tokens, ...done, ...rows };
}"""
"""What the page is asked; it is called with what `compare` gives."""


@dataclass
class Comparison:
    """What the questions found.

    Arguments:
        questions: how many there were.
        ties: those whose answers part where two tokens were equally likely.
        different: texts of those that part elsewhere, or that were read as other tokens.
        logprobs, rows: the largest differences.
        first_ms: until each answer's first token, in the page.
    """

    questions: int = 0
    ties: int = 0
    different: list[str] = field(default_factory=list)
    logprobs: float = 0.0
    rows: float = 0.0
    first_ms: list[float] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything is within what is allowed."""
        return not self.different and self.logprobs < LOGPROBS and self.rows < ROWS

    def __str__(self) -> str:
        return (
            f"{self.questions:,} questions: {len(self.different)} answers differ, {self.ties} "
            f"ties; log-probabilities within {self.logprobs:.1e}, rows of attention within "
            f"{self.rows:.1e}; first token after {np.median(self.first_ms):.0f} ms (median)"
        )


def questions(first_seed: int = FIRST_SEED) -> Iterator[Question]:
    """Some of each scene, of all kinds in turn."""
    for number in count():
        asked = scene(first_seed + number).questions
        for step in range(PER_SCENE):
            yield asked[(PER_SCENE * number + step) % len(asked)]


def sent(prompt: Any) -> list[dict[str, Any]]:
    """The pictures of a prompt, as the page takes them."""
    found = []
    for image, grid in zip(prompt.images, prompt.grids, strict=True):
        pixels = np.ascontiguousarray(np.asarray(image, np.float32).transpose(1, 2, 0)).tobytes()
        found.append(
            {
                "rows": grid.rows,
                "columns": grid.columns,
                "pixels": base64.b64encode(pixels).decode(),
            }
        )
    return found


def compare(model: Any, asked: Question, ask: Any, found: Comparison) -> None:
    """One question, in Python and in the page.

    Arguments:
        ask: runs `ASK` with its argument.
    """
    prompt = model.encode(asked.text, asked.images)
    reply = model.generate(prompt, trace=True, max_tokens=60)
    other = ask([asked.text, sent(prompt), VISION, TEXT])
    found.questions += 1
    found.first_ms.append(other["ms"]["first"])
    tokens = [*reply.tokens, model.tokenizer.eos_id]
    if other["prompt"] != prompt.tokens:
        found.different.append(asked.text)
        return
    same = 0  # tokens; both end with the end token, so that none is the beginning of the other
    while same < len(tokens) and tokens[same] == other["tokens"][same]:
        same += 1
    if same < len(tokens):
        (_, first), (_, second) = reply.trace.alternatives(same, top=2)
        if np.log(first / second) < TIE:
            found.ties += 1
        else:
            found.different.append(asked.text)
    for n, logprob in enumerate(reply.logprobs[:same]):
        found.logprobs = max(found.logprobs, abs(logprob - other["logprobs"][n]))
        row = reply.trace.token_attention(n, **TEXT)
        found.rows = max(found.rows, float(np.abs(row - other["words"][n]).max()))
    row = reply.trace.vision_attention(**VISION, image=len(prompt.grids) - 1)
    found.rows = max(found.rows, float(np.abs(row.ravel() - other["vision"]).max()))


def main(arguments: list[str] | None = None) -> int:
    """Compare them; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--questions", type=int, default=1000, metavar="N")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, metavar="SEED")
    parser.add_argument("--page", type=Path, help="of pixtral-mini (default: a newly written one)")
    options = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    begun, found = time.monotonic(), Comparison()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = options.page or Path(folder, "live.html")
        if options.page is None and pixtral(["live", "-o", str(page)]):
            return 1
        browser = playwright.chromium.launch(executable_path=find_browser(), args=[*FLAGS])
        tab = browser.new_page()
        tab.goto(page.absolute().as_uri())
        tab.wait_for_selector("#page[data-ready]")
        model = px.load("mini", dtype="float32")
        for asked in islice(questions(options.first_seed), options.questions):
            compare(model, asked, lambda told: tab.evaluate(ASK, told), found)
            if found.questions % 100 == 0:
                print(f"{time.monotonic() - begun:6.0f} s  {found}", file=sys.stderr, flush=True)
        browser.close()
    print(found)
    for text in found.different:
        print(f"differs: {text}")
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
