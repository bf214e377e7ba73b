"""How soon a click is answered while the model writes.

    python benchmarks/click_latency.py [--clicks 200] [--model mini] [--side 1024] [--json FILE]

A session writes a long answer about a picture; meanwhile another thread asks, as a click in the
answer lens does: where a word looked, its rivals, its logit lens; where a patch looked, in all
heads of a layer; and where a word looked while a rollout through all layers is computed. Measured
is the time from each message to its answer, beside the time of a decode step with nobody asking.
The goal: one decode step plus 0.12 s for 95 of 100 clicks. In one process, without a browser.
"""

import argparse
import json
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from PIL import Image

import pixtral_mlx as px
import pixtral_mlx_widgets as w
from pixtral_mlx.mini import scene

GOAL_SECONDS = 0.12
TOKENS = 400


def main() -> None:
    """Measure, print, and fail if the goal is missed."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--clicks", type=int, default=200, help="of each kind (200)")
    parser.add_argument("--model", default="mini", help="folder, hub id, or mini (default)")
    parser.add_argument(
        "--side", type=int, help="of a square picture in pixels (default: 160 x 128)"
    )
    parser.add_argument("--dtype", help="activations (default: as stored)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    session = w.Session(arguments.model, dtype=arguments.dtype)
    picture = scene(3, 4, 5).image
    if arguments.side:
        picture = picture.resize((arguments.side, arguments.side))
    step = decode_step(session, picture)
    products = px.machine().float32_products
    report: dict[str, Any] = {
        "cores": os.cpu_count(), "mlx": mx.__version__, "float32_products": products,
        "step_ms": 1e3 * step,
    }  # fmt: skip
    late = False
    print(f"decode step with nobody asking: {1e3 * step:.1f} ms (mean)")
    print(f"float32 products in {products}")
    print(f"patches: {session.prompt.grids[0].patches:,}")
    for what in ("look", "token", "lens", "heads", "rollout"):
        seconds = clicks(session, picture, what, arguments.clicks)
        p50, p95 = statistics.median(seconds), percentile(seconds, 0.95)
        late |= p95 > step + GOAL_SECONDS
        report[what] = {"p50_ms": 1e3 * p50, "p95_ms": 1e3 * p95, "most_ms": 1e3 * max(seconds)}
        print(
            f"{what:>6}: {len(seconds)} clicks, median {1e3 * p50:.1f} ms, 95 % within "
            f"{1e3 * p95:.1f} ms, all within {1e3 * max(seconds):.1f} ms"
        )
    session.close()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")
    if late:
        sys.exit(f"95 % of the clicks take longer than one step + {GOAL_SECONDS} s")


def start(session: w.Session, picture: Image.Image) -> None:
    """Begin an answer that does not end by itself: the end token is made impossible."""
    before = session.epoch
    session.ask(
        "Describe the picture.", images=[picture], max_tokens=TOKENS,
        logit_bias={2: -1e9},
    )  # fmt: skip
    while session.busy and (session.epoch == before or session.tokens < 3):
        time.sleep(0.002)


def decode_step(session: w.Session, picture: Image.Image) -> float:
    """Mean seconds of a decode step."""
    start(session, picture)
    stats = session.wait().stats
    return stats.decode_seconds / (stats.generated_tokens - 1)


def question(session: w.Session, what: str, dice: random.Random) -> tuple[str, dict[str, Any]]:
    """A click that the dice choose: (what is asked, its arguments)."""
    token, config = dice.randrange(max(session.tokens, 1)), session.config
    if what == "heads":
        grid = session.prompt.grids[0]
        patch = [dice.randrange(grid.rows), dice.randrange(grid.columns)]
        layer = dice.randrange(config.vision.num_hidden_layers)
        return what, {"layer": layer, "patch": patch, "image": 0}
    if what in ("look", "rollout"):
        layer = dice.choice([None, *range(config.text.n_layers)])
        return "look", {"token": token, "layer": layer, "head": None, "image": 0}
    return what, {"token": token}


def clicks(session: w.Session, picture: Image.Image, what: str, count: int) -> list[float]:
    """Seconds from message to answer, of clicks that nobody made before."""
    rolling, arrived, answers = w.VisionAttention(session), threading.Event(), []
    view = rolling if what == "heads" else w.AnswerLens(session)

    def send(content: Any = None, buffers: Any = None) -> None:
        if isinstance(content, dict) and "id" in content:
            answers.append(content)
            arrived.set()

    view.send = send
    found, dice, asked = [], random.Random(0), set()
    while len(found) < count:
        if not session.busy:
            start(session, picture)
            asked.clear()
        if what == "rollout" and not rolling.work:
            grid = session.prompt.grids[0]
            rolling.patch = (dice.randrange(grid.rows), dice.randrange(grid.columns))
            rolling.mode = "rollout"
        name, arguments = question(session, what, dice)
        if str(arguments) in asked:
            continue
        asked.add(str(arguments))
        arrived.clear()
        began = time.perf_counter()
        view._receive(view, {"id": 1, "what": name, "arguments": arguments}, [])
        if not arrived.wait(60) or "problem" in answers[-1]:
            raise RuntimeError(f"no answer: {answers[-1:]}")
        if session.busy:  # an answer that came after the last token would flatter
            found.append(time.perf_counter() - began)
        time.sleep(dice.random() * 0.02)
    rolling.do_stop()
    session.stop()
    session.wait()
    return found


def percentile(values: list[float], share: float) -> float:
    """The value that a share of all values do not exceed."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


if __name__ == "__main__":
    main()
