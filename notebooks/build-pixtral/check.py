"""Is your Pixtral right so far?

python check.py             # all exercises in turn, up to the first that is not done
python check.py 3           # exercise 3 alone
python check.py 3 --hint    # and a hint
python check.py mini        # the last: pixtral-mini's weights in your code
"""

import os

# Your numbers are compared in full float32; MLX would multiply in TF32 on some GPUs.
os.environ["MLX_ENABLE_TF32"] = "0"

import argparse
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from exercises import EXERCISES, Wrong, check_mini

HERE = Path(__file__).parent
LAST = "mini"


def load_code(path: Path) -> Any:
    """The module in a file.

    Raises:
        Wrong: it can't be read as Python.
    """
    path = path.resolve()
    spec = importlib.util.spec_from_file_location("your_pixtral", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Wrong(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Wrong(f"{path.name} does not start: {located(error, path)}") from None
    return module


def located(error: Exception, path: Path) -> str:
    """The error, and the last line of the student's file that it passed."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if Path(frame.filename) == path]  # fmt: skip
    line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f', line {line}' if line else ''}: {text}"


def verdict(code: Any, number: int) -> str | None:
    """None if an exercise is right; else what is not, in one line."""
    one = EXERCISES[number]
    try:
        one.check(code)
    except NotImplementedError:
        return f"still empty. Write {one.form}"
    except Wrong as wrong:
        return str(wrong)
    except Exception as error:
        return f"{located(error, Path(code.__file__))}. Expected {one.form}"
    return None


def look(code: Any, number: int, hint: bool) -> bool:
    """Say in one line how an exercise is doing; whether it is right."""
    one, wrong = EXERCISES[number], verdict(code, number)
    print(f"{'✗' if wrong else '✓'} {number:2} {one.title}{f': {wrong}' if wrong else ''}")
    if wrong:
        print(f"     {one.hint if hint else f'A hint: python check.py {number} --hint'}")
    return wrong is None


def look_at_mini(code: Any) -> bool:
    """The same for the last exercise."""
    empty = [number for number in EXERCISES if verdict(code, number)]
    if empty:
        print(f"✗ mini: first come the twelve; exercise {empty[0]} is not right yet")
        return False
    try:
        print(f"✓ mini: {check_mini(code)}")
    except Exception as error:
        said = str(error) if isinstance(error, Wrong) else located(error, Path(code.__file__))
        print(f"✗ mini: {said}")
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Check; the exit status is 0 if all that was asked for is right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    names = [*map(str, EXERCISES), LAST]
    parser.add_argument(
        "exercise", nargs="?", choices=names, metavar="EXERCISE", help="1 to 12, or mini"
    )
    parser.add_argument("--hint", action="store_true", help="say what to try")
    parser.add_argument("--code", type=Path, default=HERE / "pixtral.py", help="the file to check")
    arguments = parser.parse_args(argv)
    try:
        code = load_code(arguments.code)
    except Wrong as wrong:
        print(f"✗ {wrong}")
        return 1
    if arguments.exercise == LAST:
        return 0 if look_at_mini(code) else 1
    if arguments.exercise:
        return 0 if look(code, int(arguments.exercise), arguments.hint) else 1
    if not all(look(code, number, arguments.hint) for number in EXERCISES):
        return 1
    print("All twelve are right. Now: python check.py mini, and then: python train.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
