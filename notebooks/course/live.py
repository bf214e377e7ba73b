"""The page of `pixtral-mlx live` beside a notebook, in a frame."""

from pathlib import Path

from IPython.display import IFrame

from pixtral_mlx.cli import main

PAGE = Path("live.html")
"""JupyterLab shows files that lie below the folder that it was opened on."""

HEIGHT = 1000


class LivePage(IFrame):
    """Pixtral-mini in JavaScript: it runs in the reader's browser, and not in the kernel."""

    def __repr__(self) -> str:
        return "LivePage: run this cell to see it, or open docs/live.html"


def live_page() -> LivePage:
    """Write the page anew, so that it is the one of this version, and show it.

    Raises:
        RuntimeError: it cannot be written; the line above says why.
    """
    PAGE.unlink(missing_ok=True)
    if main(["live", "--output", str(PAGE)]):
        raise RuntimeError(f"{PAGE} cannot be written")
    return LivePage(PAGE.name, width="100%", height=HEIGHT)
