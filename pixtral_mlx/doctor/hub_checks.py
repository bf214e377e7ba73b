"""What `pixtral-mlx doctor` asks the Hugging Face hub: whether a download would work, and whether
the published files are those that the tables of `layouts` expect.

A few hundred kilobytes are fetched, never the weights. No hub is a warning, and no check waits for
one longer than its seconds.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlparse

import numpy as np

from ..checkpoint.layouts import OFFICIAL, to_ours
from ..model.config import PIXTRAL_12B, PixtralConfig
from ..tables import format_bytes
from .check import FAIL, OK, SKIPPED, WARN, Check

REPOSITORY = "mistralai/Pixtral-12B-2409"
WEIGHTS = "consolidated.safetensors"
WANTED = ("params.json", "tekken.json", WEIGHTS)

SECONDS = 5.0
"""For an answer of the hub."""
FETCH_SECONDS = 20.0
FETCH_BYTES = 1 << 20

T = TypeVar("T")


@dataclass
class Hub:
    """What was learnt of the repository so far; a later check needs an earlier one's.

    Arguments:
        commit: of the main branch; "" while nobody answered.
        sizes: bytes of its files by name.
        begin: the first bytes of the weights.
    """

    commit: str = ""
    sizes: dict[str, int] | None = None
    begin: bytes = b""


def check_hub(hub: Hub) -> Check:
    """Whether the hub answers, whether somebody is logged in, and which files there are."""
    from huggingface_hub import HfApi, constants, get_token

    token = "a token is present" if get_token() else "no token, and none is needed"
    facts: dict[str, Any] = {"token": bool(get_token())}
    if constants.HF_HUB_OFFLINE:
        return Check("hub", SKIPPED, f"HF_HUB_OFFLINE is set; {token}", "", facts)
    start = time.perf_counter()
    try:
        info = within(
            SECONDS, lambda: HfApi().model_info(REPOSITORY, files_metadata=True, timeout=SECONDS)
        )
    except Exception as error:
        text = f"not reachable ({_said(error)}); {token}"
        advice = "check the network; a folder of weights from elsewhere works as well"
        return Check("hub", WARN, text, advice, facts)
    hub.commit = info.sha or "main"
    hub.sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    facts |= {
        "seconds": time.perf_counter() - start,
        "commit": hub.commit,
        "sizes": {name: hub.sizes[name] for name in WANTED if name in hub.sizes},
    }
    missing = [name for name in WANTED if name not in hub.sizes]
    if missing:
        text = f"{REPOSITORY} has no {', '.join(missing)}; {token}"
        return Check("hub", FAIL, text, "the repository has changed: report it", facts)
    files = ", ".join(f"{name} {format_bytes(hub.sizes[name])}" for name in WANTED[1:])
    return Check("hub", OK, f"reached in {facts['seconds']:.1f} s: {files}; {token}", "", facts)


def check_fetch(hub: Hub) -> Check:
    """One megabyte of the weights, asked for by range."""
    if not hub.sizes:
        return Check("fetch", SKIPPED, "without the hub there is nothing to fetch")
    start = time.perf_counter()
    try:
        hub.begin = within(FETCH_SECONDS, lambda: _begin(hub.commit))
    except Exception as error:
        text = f"the weights' first megabyte did not arrive ({_said(error)})"
        return Check("fetch", WARN, text, f"https://huggingface.co/{REPOSITORY} says what it needs")
    seconds = time.perf_counter() - start
    speed = len(hub.begin) / 1e6 / seconds
    facts = {"bytes": len(hub.begin), "seconds": seconds, "megabytes_per_second": speed}
    text = f"{format_bytes(len(hub.begin))} of {WEIGHTS} by range, {speed:.1f} MB/s"
    return Check("fetch", OK, text, "", facts)


def check_names(hub: Hub, config: PixtralConfig = PIXTRAL_12B) -> Check:
    """Names, shapes and types of the published tensors, against the table that opens them."""
    if not hub.begin:
        return Check("tensor names", SKIPPED, "no header was fetched")
    length = int.from_bytes(hub.begin[:8], "little")
    if len(hub.begin) < 8 + length:
        text = f"the header has {length:,} bytes, {len(hub.begin) - 8:,} arrived"
        return Check("tensor names", FAIL, text, "report it")
    header = json.loads(hub.begin[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {name: tuple(entry["shape"]) for name, entry in header.items()}
    expected = official_shapes(config)
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is not known" for name in found if name not in expected]
    wrong += [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    kinds = sorted({entry["dtype"] for entry in header.values()})
    odd = _not_finite(hub.begin[8 + length :], header)
    facts = {"tensors": len(found), "dtypes": kinds, "wrong": wrong[:20], "not_finite": odd}
    if wrong or odd:
        told = wrong or [f"{odd:,} of the first numbers are NaN or infinite"]
        text = f"{len(told)} things differ: {'; '.join(told[:3])}"
        return Check("tensor names", FAIL, text, "the published file has changed: report it", facts)
    text = f"{len(found)} tensors in {', '.join(kinds)}, names and shapes as the tables say"
    return Check("tensor names", OK, text, "", facts)


def official_shapes(config: PixtralConfig) -> dict[str, tuple[int, ...]]:
    """{official tensor name: its shape in the file}."""
    from ..checkpoint.layouts import shapes

    ours = shapes(config)
    return {
        source.theirs: _as_published(ours[name], source.transform.kind)
        for name, source in to_ours(OFFICIAL, config).items()
    }


def _as_published(shape: tuple[int, ...], transform: str) -> tuple[int, ...]:
    """A convolution is (out, in, height, width) there and (out, height, width, in) here."""
    return (shape[0], shape[3], shape[1], shape[2]) if transform == "conv" else shape


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns; a thread does it, since a name server knows no limit of ours.

    Raises:
        TimeoutError: it takes longer; what is still going on is left alone.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="hub check", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"slower than {seconds:g} s")
    return found[0]


def _begin(commit: str) -> bytes:
    from huggingface_hub import get_hf_file_metadata, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = hf_hub_url(REPOSITORY, WEIGHTS, revision=commit)
    place = get_hf_file_metadata(url, timeout=SECONDS).location
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if urlparse(place).netloc != urlparse(url).netloc:
        headers.pop("authorization", None)  # a token is for the hub, not for where files lie
    headers["Range"] = f"bytes=0-{FETCH_BYTES - 1}"
    with get_session().stream("GET", place, headers=headers, timeout=SECONDS) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            raise ConnectionError("the server sends all of the file, not the range")
        data = bytearray()
        for block in response.iter_bytes():
            data += block
            if len(data) > FETCH_BYTES:
                raise ConnectionError("the server sends more than the range")
    return bytes(data)


def _not_finite(data: bytes, header: dict[str, Any]) -> int:
    """How many of the numbers that came along are NaN or infinite; bfloat16 only."""
    if {entry["dtype"] for entry in header.values()} != {"BF16"}:
        return 0
    words = np.frombuffer(data[: len(data) // 2 * 2], "<u2")
    return int(((words & 0x7F80) == 0x7F80).sum())


def _said(error: BaseException) -> str:
    """One line of what went wrong; a refusal by its status alone."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"status {status}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]
