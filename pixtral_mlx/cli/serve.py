"""`pixtral-mlx serve`: the model for other programs, and a page for people."""

import importlib.util
import logging
from argparse import Namespace

from ..errors import PixtralError, how_to_install
from .question import MINI_NOTICE, find_model
from .settings import MINI, chosen_model
from .status import Status
from .streams import end_at_once
from .wrap import say

NEEDED = ("starlette", "uvicorn", "prometheus_client")

log = logging.getLogger(__name__)


def run(arguments: Namespace) -> int:
    """Serve until a signal ends it.

    Raises:
        PixtralError: something is not installed, or the address cannot be had.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise PixtralError(f"{missing[0]} is not installed: {how_to_install('serve')}")
    from ..server.options import ServerOptions
    from ..server.run import serve
    from .flags import given_options

    given = given_options(arguments, ServerOptions)
    unsaid = {
        name: value for name, value in arguments.environment.items() if given[name] in (None, [])
    }
    options = ServerOptions(**{**given, **unsaid})
    logging.getLogger("pixtral_mlx").setLevel(options.log_level.upper())
    choice = chosen_model(arguments)
    if choice.model == MINI:
        log.warning(MINI_NOTICE)
    folder = str(find_model(choice))
    with Status("opening the model") as status:

        def ready(address: str) -> None:
            status.step("")
            say(f"ready: {address}", flush=True)

        serve(
            folder,
            options,
            dtype=arguments.dtype,
            ready=ready,
            end_at_once=lambda: end_at_once(1),
        )
    return 0
