"""What a server is told when it starts: flags, and environment variables of the same names."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ..checks import check_fields, option, options_of
from ..errors import PixtralError

PREFIX = "PIXTRAL_MLX_"
"""Of the environment variables: PIXTRAL_MLX_PORT is `--port`."""


@dataclass(frozen=True)
class ServerOptions:
    """How to serve.

    Arguments:
        adapter_path: the folder of an adapter that the model computes with.
        host: address to listen on; any but this machine's own needs a key.
        port: to listen on; 0 takes a free one.
        api_key: the key that every request needs, but for the page and /health.
        max_concurrency: answers written at once.
        max_waiting: answers that may wait for their turn; beyond, 429.
        max_images: pictures in one request, each page of a PDF among them.
        max_body: of a request.
        timeout: a request may take so long in all.
        allow_origin: a web page's origin that may ask, for example https://example.com; * is any.
        allow_host: a name under which this server is reached, beside localhost.
        allow_net: a host from which pictures may be fetched though it is in a private network.
        served_name: another name that the model answers to.
        keep_alive: minutes without a request after which the model leaves the memory, until the
            next one; None: it stays.
        prompt_cache: a folder that keeps what conversations computed, for the next start.
        log_level: what is logged; contents of requests never are.

    Raises:
        ValueError: a value out of range.
        PixtralError: another address than this machine's own, without a key.
    """

    adapter_path: str | None = option(
        None, help="folder of an adapter (LoRA) that the model computes with", unit="DIR"
    )
    host: str = option(
        "127.0.0.1",
        help="address to listen on; any but this machine's own needs a key",
        unit="ADDRESS",
    )
    port: int = option(
        8000, help="port to listen on; 0 takes a free one", kind=int, range=(0, 65535), unit="N"
    )
    api_key: str | None = option(
        None,
        help="key that every request needs, but for the page and /health; others on this machine "
        "can read flags, so rather set the variable",
        unit="KEY",
    )
    max_concurrency: int = option(
        8, help="answers written at once", kind=int, range=(1, 256), unit="N"
    )
    max_waiting: int = option(
        256, help="answers that may wait for their turn", kind=int, range=(0, 100_000), unit="N"
    )
    max_images: int = option(
        32, help="pictures and pages in one request", kind=int, range=(0, 1000), unit="N"
    )
    max_body: float = option(
        100, help="largest request", kind=float, range=(0.001, 10_000), unit="MB"
    )
    timeout: float = option(
        600, help="longest time a request may take", kind=float, range=(1, 86_400), unit="SECONDS"
    )
    allow_origin: Any = option(
        (),
        help="origin of web pages that may ask, such as https://example.com; * is any",
        unit="ORIGIN",
        repeated=True,
    )
    allow_host: Any = option(
        (), help="name under which this server is reached, beside localhost", unit="HOST",
        repeated=True,
    )  # fmt: skip
    allow_net: Any = option(
        (),
        help="host to fetch pictures from though it is in a private network",
        unit="HOST",
        repeated=True,
    )
    served_name: Any = option(
        (), help="another name that the model answers to", unit="NAME", repeated=True
    )
    keep_alive: float | None = option(
        None,
        help="minutes without a request after which the model leaves memory; default: it stays",
        kind=float,
        range=(0, 1_000_000),
        unit="MINUTES",
    )
    prompt_cache: str | None = option(
        None, help="folder that keeps what conversations computed, for the next start", unit="DIR"
    )
    log_level: str = option(
        "info",
        help="how much is logged",
        kind=str,
        choices=("debug", "info", "warning", "error"),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("allow_origin", "allow_host", "allow_net", "served_name"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.api_key and not self.is_local:
            raise PixtralError(
                f"--host {self.host} can be reached from other machines, and there is no key: set "
                f"{PREFIX}API_KEY (or --api-key), or leave --host out"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def body_bytes(self) -> int:
        """The largest body."""
        return int(self.max_body * 1_000_000)


def from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    """The options that environment variables set; lists have commas between their items.

    Raises:
        ValueError: a variable is no number where one is needed.
    """
    found: dict[str, Any] = {}
    for name, (declared, _) in options_of(ServerOptions).items():
        variable = PREFIX + name.upper()
        if not (text := variables.get(variable, "").strip()):
            continue
        if declared.repeated:
            found[name] = [item.strip() for item in text.split(",") if item.strip()]
        elif declared.kind in (int, float):
            try:
                found[name] = declared.kind(text)
            except ValueError:
                raise ValueError(f"{variable} must be a number, got {text!r}") from None
        else:
            found[name] = text
    return found
