"""Where MLX multiplies float32 in TF32: everything says so, and tolerances go by what was measured.

The GPU is emulated (`emulate_tf32.py`), in processes of their own, where nothing is pinned.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import emulate_tf32
import pytest

import pixtral_mlx as px

HOUSE = Path(__file__).parents[1]
FOUND = (HOUSE, HOUSE / "widgets", HOUSE / "notebooks", HOUSE / "tests")


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    """Runs this Python on the emulated machine; gives what it prints."""
    environment = emulate_tf32.environment(tmp_path_factory.mktemp("gpu"))
    paths = [environment["PYTHONPATH"], *map(str, FOUND)]
    environment["PYTHONPATH"] = os.pathsep.join(paths)

    def run(*arguments, **variables):
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, env=environment | variables, capture_output=True, text=True, timeout=300
        )
        assert not done.returncode, done.stderr
        return done.stdout.strip()

    return run


PRECISION = "import pixtral_mlx as px; m = px.machine(); print(m.float32_products, m.float32_error)"


def test_the_emulated_gpu_obeys_the_variable_as_mlx_does(on_gpu):
    products, error = on_gpu("-c", PRECISION).split()
    assert products == "TF32" and 7.4e-4 < float(error) < 8e-4  # others measured 7.7e-4 on M5
    assert on_gpu("-c", PRECISION, MLX_ENABLE_TF32="0").startswith("float32")
    late = 'import os; import mlx.core; os.environ["MLX_ENABLE_TF32"] = "0"; '
    assert on_gpu("-c", late + PRECISION).startswith("float32")  # before the first product
    again = f'; os.environ["MLX_ENABLE_TF32"] = "0"; {PRECISION}'
    assert on_gpu("-c", f"import os; {PRECISION}{again}").count("TF32") == 2  # too late


GOLDEN = """
import tempfile
from pathlib import Path
import mlx.core as mx
if TOO_LATE:
    mx.ones((2, 2)) @ mx.ones((2, 2))
import cases, golden_checks
golden = golden_checks.Golden(next(iter(cases.CASES)))
with tempfile.TemporaryDirectory() as folder:
    model = golden_checks.load(Path(folder) / "official")
    prompt = golden_checks.check_inputs(model, golden)
    for check in (golden_checks.check_decoder, golden_checks.check_logits):
        try:
            check(model, golden, prompt)
        except AssertionError as error:
            print(error)
"""


def test_golden_checks_hold_because_they_are_pinned(on_gpu):
    assert on_gpu("-c", f"TOO_LATE = False{GOLDEN}") == ""
    lost = on_gpu("-c", f"TOO_LATE = True{GOLDEN}").splitlines()
    assert len(lost) == 2, "the emulation does nothing"
    largest = float(re.search(r"decoder_0: (\S+) /", lost[0])[1])
    assert largest > 1e-3  # where 5e-5 is allowed


def test_commands_say_it(on_gpu):
    command = ("-m", "pixtral_mlx")
    assert "products on this machine: TF32" in on_gpu(*command, "inspect", "mini")
    found = json.loads(on_gpu(*command, "inspect", "mini", "--json"))
    assert found["float32_products"] == "TF32"
    found = json.loads(on_gpu(*command, "generate", "--prompt", "Hi", "--json"))
    assert found["stats"]["float32_products"] == "TF32"
    few = ("--runs", "1", "--max-tokens", "2", "--prompt-tokens", "9", "--image-size", "32")
    found = json.loads(on_gpu(*command, "bench", *few, "--bandwidth", "100", "--json", "-"))
    assert found["machine"]["float32_products"] == "TF32"


ANSWERS = """
import mlx.core as mx, numpy as np
mx.ones((2, 2)) @ mx.ones((2, 2))  # a product came first: what course pins is too late
import course, pixtral_mlx as px
model = px.load("mini", dtype="float32")
near, shown = course.tolerance(model), course.scenes(2, rows=2, columns=3)
ask = {"messages": "How many rows are there?", "images": [shown[0].image]}
fresh = model.generate(**ask, reuse=False)
seen = model.generate(**ask, reuse=False, trace=True)
model.generate("What colours are there?", images=[shown[0].image])
again, (one, two) = model.generate(**ask), model.generate_batch([ask, ask], reuse=False)
assert again.stats.cached_tokens and one.stats.float32_products == "TF32"
assert (seen.tokens, seen.logprobs) == (fresh.tokens, fresh.logprobs)
for reply in (again, one, two):
    assert reply.tokens == fresh.tokens
    assert np.allclose(reply.logprobs, fresh.logprobs, atol=near)
prompt = model.encode("", images=[s.image for s in shown])
alone = mx.concatenate([model.vision_encoder([image]) for image in prompt.images])
print(near, course.relative_error(model.vision_encoder(prompt.images), alone))
print(course.check_quiet(shown[0].image, shown[0].image, model))
from pixtral_mlx.doctor import kernels
for check in kernels.check_layers([kernels.Case("vision", mx.float32, 64)]):
    assert check.passed and check.error > 1e-3, check
"""


def test_tolerances_are_those_of_the_machine(on_gpu):
    """Reuse, traces and batches answer the same; what the course checks goes by `tolerance`, and
    so does the layer of the 12B that is set against its definition."""
    numbers, verdict = on_gpu("-c", ANSWERS).splitlines()
    near, apart = map(float, numbers.split())
    assert apart < near and 1e-3 < near < 3e-2  # less strict than float32, more than bfloat16
    assert verdict.startswith("✓ Right.")


@pytest.mark.parametrize("error, expected", [(3e-7, 1e-4), (5e-6, 1e-4), (1e-3, 2e-2)])
def test_a_tolerance_grows_with_the_error_of_products(error, expected):
    machine = replace(px.machine(), float32_error=error)
    assert machine.tolerance(1e-4) == pytest.approx(expected)


def test_the_course_pins_it(on_gpu):
    """A notebook may import MLX first; its own products come later."""
    assert on_gpu("-c", f"import mlx.core, course; {PRECISION}").startswith("float32")
    for path in (HOUSE / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        first = next(cell for cell in cells if cell["cell_type"] == "code")
        lines = "".join(first["source"]).splitlines()
        used = [line for line in lines[: lines.index("import course")] if "import" not in line]
        assert {*used} <= {'MODEL = "mini"', ""}, path.name


def test_benchmarks_pin_it_or_say_it():
    """Those that compute a model: what claims the same numbers pins it, what measures speed says
    what it measured."""
    for path in sorted((HOUSE / "benchmarks").glob("*.py")):
        text = path.read_text()
        if re.search(r"px\.load|\.generate\(|Decoder\(|VisionEncoder\(|px\.Pixtral\(", text):
            assert re.search(r'environ\["MLX_ENABLE_TF32"\]|float32_products|both_sides', text), (
                f"{path.name}: in which precision?"
            )
