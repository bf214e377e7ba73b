"""The live page's network, tokenizer and scenes, in JavaScript: the same numbers as Python's.

Everything is written into files that `js/live.test.mjs` reads under node.
"""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np
from checkpoints import make_hf, make_official
from questions import noise
from views import in_node, scripts

import pixtral_mlx as px
from pixtral_mlx.checkpoint.checkpoint import open_checkpoint
from pixtral_mlx.cli import live_page
from pixtral_mlx.drawing import FOLDER
from pixtral_mlx.inputs.pixels import preprocess
from pixtral_mlx.inputs.tokenizer import Tokenizer
from pixtral_mlx.inputs.tokenizer_file import shipped_tekken
from pixtral_mlx.mini import CHECKPOINT, scene
from pixtral_mlx.mini.evaluation import transposed
from pixtral_mlx.mini.questions import KINDS, ask
from pixtral_mlx.mini.scene_layout import draw, make_layout
from pixtral_mlx.mini.scenes import COUNTED

SHOWN = scene(8, rows=3, columns=4)

CHANGES = (
    ({"breaks": "none"}, [px.edits.NoBreakTokens()]),
    ({"heads": [["text", 3, 0], ["text", 3, 1]]}, [px.edits.KnockOutHeads("text", 3, [0, 1])]),
    ({"heads": [["vision", 1, 2]]}, [px.edits.KnockOutHeads("vision", 1, [2])]),
    ({"layers": [["vision", 2], ["text", 1]]},
     [px.edits.SkipLayers("vision", [2]), px.edits.SkipLayers("text", [1])]),
    ({"hidden": [[0, 4], [0, 5], [0, 17]]}, [px.edits.MaskPatches([4, 5, 17])]),
)  # fmt: skip

TEXTS = (
    "", " ", "x", "What is in row 2, column 3?", "Where is the red star?", "  two  blanks ",
    "a\nb", "\n\n", "\r\n x", "tab\there", "[INST] [IMG][/INST]<s></s>", "don't we'll I'M",
    "ÀÉÎõü ñ ß", "naïve cafés", "日本語のテキスト。", "Привет, мир!", "שלום עולם", "مرحبا بالعالم",
    "हिन्दी में लिखा", "ภาษาไทย", "👋🏽 👩‍👩‍👧 🇫🇷", "e\u0301 combining", "１２３ ⅷ ½ x²", "1234567890",
    "\u00a0nbsp\u2003em\u3000wide", "\ufeffbom", "\x85next line\x85", "\u2028line\u2029end",
    "zero\u200bwidth\u200d", "ǅ ǈ titlecase", "UPPER lower MiXeD", "snake_case-and/slash//",
    "!!!???...", "a  \ufeffb", "a  \x85 b",
    "a/b/c\n/", "(red) 'star' \"heart\"", "\x00\x01\x7f", "end   ", "   ",
    "İstanbul ıI", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "＃ｆｕｌｌ", "Which picture has a moon, the first or the second?",
)  # fmt: skip


MOST = 20
"""Tokens of an answer; the answers of pixtral-mini are shorter, those of a random model endless."""


def coded(array) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.float32).tobytes()).decode()


def picture_of(image, grid) -> dict:
    """As the page prepares one: its colours side by side."""
    pixels = coded(np.asarray(image).transpose(1, 2, 0))
    return {"rows": grid.rows, "columns": grid.columns, "pixels": pixels}


SITES = {
    "vision.embeddings": "vision.embeddings", "vision.2.heads": "vision.2.heads",
    "vision.2.out": "vision.2", "projector.out": "projector",
}  # fmt: skip
"""What the page calls a tensor, and what a trace calls it."""


def case(model, text, images, changes=None, edits=(), prompt=None) -> dict:
    """A question, what Python answers, and what it sees on the way."""
    prompt = prompt or model.encode(text, images)
    pictures = zip(prompt.images, model.encode(text, images).grids, strict=True)
    options = px.TraceOptions(states=[*SITES.values()])
    reply = model.generate(prompt, trace=options, edits=edits, max_tokens=MOST)
    trace, last = reply.trace, len(prompt.grids) - 1
    patches, layers = prompt.grids[last].patches, [(0, 0), (1, 3), (2, None)]
    tokens = sorted({0, len(reply.tokens) - 1})
    looks = [(0, 0, 0), (1, 1, patches - 1), (2, None, patches // 2)]
    if any(isinstance(edit, px.edits.NoVisionMask) for edit in edits):
        looks = []  # a trace has the row of one picture, the page that of both
    return {
        "text": text, "changes": changes or {}, "pictures": [picture_of(*p) for p in pictures],
        "prompt": trace.prompt.tokens, "logprobs": reply.logprobs, "most": MOST,
        "tokens": reply.tokens + [model.tokenizer.eos_id] * (reply.finish_reason == "stop"),
        "vision": [
            {"layer": layer, "head": head, "picture": last, "patch": patch,
             "row": coded(trace.vision_attention(layer, patch, head, image=last).ravel())}
            for layer, head, patch in looks
        ],
        "words": [
            {"token": token, "layer": layer, "head": head,
             "row": coded(trace.token_attention(token, layer, head))}
            for token in tokens for layer, head in layers
        ],
        "maps": [
            {"token": token, "picture": image,
             "map": coded(trace.image_attention(token, image=image).ravel())}
            for token in tokens for image in range(last + 1)
        ],
        "states": {ours: coded(trace.states[site].ravel()) for ours, site in SITES.items()},
    }  # fmt: skip


def model_of(folder, name, ask_it) -> dict:
    """A model as the page holds it, and its cases."""
    held, weights = live_page.data(open_checkpoint(folder), name)
    model = px.load(folder, dtype="float32")
    return {
        "name": name, "data": held, "weights": base64.b64encode(weights).decode(),
        "cases": ask_it(model),
    }  # fmt: skip


def every_case(model) -> list[dict]:
    """All kinds of questions, and every change."""
    kinds = {question.kind: question for question in SHOWN.questions}
    plain = [case(model, one.text, one.images) for one in kinds.values()]
    at, rows, which = kinds["at"], kinds["rows"], kinds["which"]
    changed = [case(model, at.text, at.images, *change) for change in CHANGES]
    swapped = transposed(model.encode(rows.text, rows.images), model.tokenizer.image_ids)
    changed += [
        case(model, rows.text, rows.images, {"breaks": "swapped"}, prompt=swapped),
        case(model, which.text, which.images, {"mask": False}, [px.edits.NoVisionMask()]),
    ]
    return [*plain, *changed]


def one_case(model) -> list[dict]:
    at = next(question for question in SHOWN.questions if question.kind == "at")
    return [case(model, at.text, at.images)]


def noise_case(model) -> list[dict]:
    return [case(model, "What is this?", [noise()])]


def weight_cases() -> list[dict]:
    """Numbers of each type, and what they are."""
    array, found = mx.random.normal((4, 128), key=mx.random.key(0)), []
    for kind in (mx.float32, mx.float16, mx.bfloat16):
        found.append((array.astype(kind), None))
    found += [(array, bits) for bits in (2, 3, 4, 5, 6, 8)]
    cases = []
    for one, bits in found:
        if bits is None:
            held = np.array(one if one.dtype == mx.float32 else one.view(mx.uint16))
            names = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}
            header, wanted = {"type": names[one.dtype], "shape": [4, 128], "at": 0}, one
            data = held.tobytes()
        else:
            parts = mx.quantize(one, group_size=64, bits=bits)
            packed, scales, biases = (np.array(part).tobytes() for part in parts)
            header = {
                "type": "affine", "shape": [4, 128], "at": 0, "bits": bits, "group": 64,
                "scales": {"type": "F32", "shape": [4, 2], "at": len(packed)},
                "biases": {"type": "F32", "shape": [4, 2], "at": len(packed) + len(scales)},
            }  # fmt: skip
            wanted, data = mx.dequantize(*parts, group_size=64, bits=bits), packed + scales + biases
        wanted = coded(np.array(wanted.astype(mx.float32)).ravel())
        cases.append({"header": header, "bytes": base64.b64encode(data).decode(), "wanted": wanted})
    return cases


def rounded_cases() -> list[dict]:
    array = mx.random.normal((8, 192), key=mx.random.key(1))
    found = []
    for bits in (2, 3, 4):
        back = mx.dequantize(*mx.quantize(array, 64, bits), group_size=64, bits=bits)
        numbers = {"from": coded(np.array(array).ravel()), "to": coded(np.array(back).ravel())}
        found.append({"bits": bits, "shape": [8, 192], **numbers})
    return found


def scene_cases(vision) -> list[dict]:
    found = []
    for seed in range(40):
        random = Random(seed)
        layout, other = make_layout(random), make_layout(random)
        asked = [ask(kind, layout, random, other, most=COUNTED) for kind in KINDS]
        image = draw(layout)
        # Some as for a model that takes smaller pictures, in smaller patches.
        small = {"image_size": 32 + seed, "patch_size": 8} if seed % 4 == 3 else {}
        sized = replace(vision, **small)
        numbers = preprocess(image, sized, px.ImageOptions()).transpose(1, 2, 0)
        found.append({
            "seed": seed, "layouts": [as_page(layout), as_page(other)],
            "asked": [one and [one.text, one.answer] for one in asked],
            "pixels": base64.b64encode(image.tobytes()).decode(), "numbers": coded(numbers.ravel()),
            "sizes": {"image_size": sized.image_size, "patch_size": sized.patch_size},
        })  # fmt: skip
    return found


def as_page(layout) -> dict:
    cells = [{"name": thing.name, "colour": thing.colour} for thing in layout.cells]
    return {"rows": layout.rows, "columns": layout.columns, "cells": cells, "look": layout.look}


def text_cases(tokenizer) -> list[tuple[str, list[int]]]:
    """Texts by hand, and letters of all kinds by lot."""
    random = Random(0)
    alphabet = [
        *map(chr, range(32, 127)),
        *"  \n\t\x85\ufeff",
        *map(chr, range(0xA0, 0x250)),
        *"日本हिन्दีЖш👋🏽ǅ１",
    ]
    lots = ["".join(random.choices(alphabet, k=random.randrange(1, 30))) for _ in range(300)]
    asked = [question.text for seed in range(20) for question in scene(seed).questions]
    return [(text, tokenizer.encode(text, raw=True).tokens[1:]) for text in (*TEXTS, *lots, *asked)]


def words_and_texts(file) -> dict:
    """A vocabulary, and how mistral-common cuts texts with it: with Pixtral's own, of 131,072
    words, it matters for nearly all of them where one word ends."""
    checkpoint = replace(open_checkpoint(CHECKPOINT), tokenizer_file=file)
    texts = text_cases(Tokenizer(file, checkpoint.config.vision))
    return {"words": live_page.words(checkpoint), "texts": texts}


def test_the_modules_in_node(mini, folder, tmp_path):
    files = tmp_path / "files"
    files.mkdir()

    def write(name, content):
        (files / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

    four = px.convert("mini", tmp_path / "4bit", vision_bits=4).folder
    floats = px.convert("mini", tmp_path / "mxfp4", mode="mxfp4").folder
    tied = make_official(tmp_path / "tied", text={"tied_embeddings": True})
    write("models", [
        model_of(CHECKPOINT, "as stored", every_case), model_of(four, "4 bits", one_case),
        model_of(floats, "mxfp4", one_case), model_of(folder, "random", noise_case),
        model_of(tied, "tied", noise_case),
        model_of(make_hf(tmp_path / "hf"), "of transformers", noise_case),
    ])  # fmt: skip
    write("weights", weight_cases())
    write("rounded", rounded_cases())
    write("texts", [words_and_texts(file) for file in (mini.tokenizer.path, shipped_tekken())])
    write("scenes", {"world": live_page.world(), "scenes": scene_cases(mini.config.vision)})
    static = scripts(tmp_path / "static", FOLDER / "live")
    for file in sorted((Path(__file__).parent / "js").glob("*.test.mjs")):
        done = in_node(file, static, CASES=str(files))
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert re.search(r"pass [1-9]", done.stdout), "no test ran"
