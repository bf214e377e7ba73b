"""The page for people: one HTML text with its style and its script, and what it may do.

It asks the server as any other client does, from the browser, and shows pictures with the scripts
of `drawing`. The conversation stays in the browser.
"""

import base64
import hashlib
import io
import json
from functools import cache
from pathlib import Path

from starlette.responses import HTMLResponse, Response

from ..drawing import joined, styled
from ..mini.demo_scene import demo_scene

STATIC = Path(__file__).parent / "static"


@cache
def parts() -> tuple[str, str, str]:
    """(HTML with {style} and {script} in it, the style, the script)."""
    html = (STATIC / "page.html").read_text(encoding="utf-8").replace("{sample}", sample())
    return html, styled(STATIC / "page.css"), joined("page", [STATIC])


def sample() -> str:
    """Something to ask about for those who have no picture at hand, as JSON."""
    shown, questions = demo_scene()
    file = io.BytesIO()
    shown.image.save(file, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return json.dumps(
        {
            "picture": address,
            "alt": "coloured shapes in three rows of four",
            "question": questions[-1].text,
        }
    )


@cache
def policy() -> str:
    """The Content-Security-Policy: its own style and script, and requests to its own server."""
    _, style, script = parts()
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "connect-src 'self'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # text never becomes HTML
            "trusted-types 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def page() -> Response:
    """What `GET /` answers."""
    html, style, script = parts()
    headers = {
        "Content-Security-Policy": policy(),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }
    return HTMLResponse(html.replace("{style}", style).replace("{script}", script), 200, headers)
