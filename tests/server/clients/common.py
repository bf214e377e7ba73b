"""What every client is asked, and how it tells what it got: one line of JSON."""

import base64
import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

ADDRESS, PICTURE = sys.argv[1], Path(sys.argv[2])
BASE_URL = f"{ADDRESS}/v1"
URL = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()

MODEL = "pixtral-12b"
KEY = "any"
TEXT = "What is a star?"
QUESTION = "What do you see in row 2, column 1?"
PARTS: Any = [
    {"type": "text", "text": QUESTION},
    {"type": "image_url", "image_url": {"url": URL}},
]
Word = Literal["one", "two", "three"]


class Rows(BaseModel):
    """How many rows there are."""

    rows: int


def report_rows(rows: Word) -> str:
    """Report the number of rows."""
    return f"reported {rows}"


def tell(**found: Any) -> None:
    """Print what a client got."""
    print(json.dumps(found), flush=True)
