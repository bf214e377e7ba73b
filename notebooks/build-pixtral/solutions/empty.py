"""The solution with its twelve gaps emptied, which is how pixtral.py begins.

python solutions/empty.py > pixtral.py      # to start over: what you wrote is lost
"""

import ast
from pathlib import Path

SOLUTION = Path(__file__).with_name("pixtral.py")


def exercises(text: str) -> list[ast.FunctionDef]:
    """The functions that are exercises, in order: their docstrings say so."""
    functions = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef)]
    return sorted(
        (one for one in functions if (ast.get_docstring(one) or "").startswith("Exercise ")),
        key=lambda one: one.lineno,
    )


def emptied(text: str) -> str:
    """A solution without what stands in its exercises below the docstring."""
    lines = text.splitlines()
    for function in reversed(exercises(text)):
        first, last = function.body[1].lineno - 1, function.end_lineno
        count = last - first
        about = f"# yours: about {count} line{'s' * (count > 1)}"
        indent = " " * function.body[1].col_offset
        lines[first:last] = [f"{indent}raise NotImplementedError  {about}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(emptied(SOLUTION.read_text(encoding="utf-8")), end="")
