"""Where pictures come from: a file, a data URL, an address on the web; bounded in size and time.

mistral-common's own loader is not used: it opens `file://` paths and fetches URLs without a limit.
"""

import base64
import http.client
import io
import os
import re
import stat
import threading
import urllib.error
import urllib.parse
import urllib.request
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ImageError
from .checked_http import handlers
from .file_kind import is_pdf, is_picture
from .sources import ANYWHERE, Sources

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".avif", ".heic", ".heif", ".hif", ".pdf",
}  # fmt: skip
"""How files of pictures and PDFs are called; what is in them decides when they are opened."""

MAX_FILE_BYTES = 200_000_000
MAX_URL_BYTES = 50_000_000
URL_SECONDS = 20.0

_BLOCK_BYTES = 1 << 16
_BLANKS = dict.fromkeys(map(ord, "\t\n\f\r "))
_SAYS_BASE64 = re.compile(r"; *base64 *$", re.IGNORECASE)
_LEAST_BASE64, _LONGEST_NAME = 32, 1024
_URL_LETTERS = "%/:=&?~#+!$,;'@()*[]|"  # what an address may hold beside letters and digits


def read_source(source: Any, sources: Sources = ANYWHERE) -> tuple[bytes, str]:
    """The encoded bytes of a picture, and a short name of it for messages.

    Arguments:
        source: a path, a `file://`, `data:`, `http://` or `https://` URL, base64, an open file, or
            the bytes themselves.
        sources: the rule that says which of these are allowed.

    Raises:
        ImageError: not allowed, not there, not readable, too large, or not fetched in time.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "image bytes"
    if isinstance(source, os.PathLike):
        sources.check_file()
        return _read_file(os.fsdecode(source))
    if hasattr(source, "read"):
        return _read_open_file(source)
    if not isinstance(source, str):
        raise ImageError(
            f"an image is given as {type(source).__name__}; allowed: a path, a URL, base64, bytes, "
            "an open file, a PIL image and an array"
        )
    scheme = source[:_LONGEST_NAME].partition(":")[0].strip().lower() if ":" in source else ""
    if scheme == "data":
        return _read_data_url(source.strip())
    if scheme in ("http", "https"):
        return _read_url(source.strip(), sources)
    if scheme == "file":
        sources.check_file()
        return _read_file(_path_of_url(source))
    if "://" in source:
        raise ImageError(
            f"{short_name(source)}: scheme {short_name(scheme)!r}; allowed: https, http, file "
            "and data, or a path"
        )
    if (data := _bare_base64(source)) is not None:
        return data, "base64"
    sources.check_file()
    return _read_file(source)


def is_file(source: Any) -> bool:
    """Whether `read_source` reads it; else it is a picture in memory, or no source at all."""
    encoded = isinstance(source, str | os.PathLike | bytes | bytearray | memoryview)
    return encoded or hasattr(source, "read")


def short_name(name: str) -> str:
    """A name that fits into one line of a message: printable, its middle left out if long."""
    short = name if len(name) <= 160 else f"{name[:80]}...{name[-60:]}"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in short)


def _path_of_url(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise ImageError(f"{short_name(url)}: not a URL ({error}): give the path itself") from error
    if parts.netloc not in ("", "localhost"):
        raise ImageError(
            f"{short_name(url)}: a file on the host {parts.netloc!r}; allowed: files of this "
            "machine: write file:///path, or the path itself"
        )
    return urllib.request.url2pathname(parts.path)


def _read_file(source: str) -> tuple[bytes, str]:
    name = short_name(source)
    if not source:
        raise ImageError("an empty file name: give the path or URL of an image")
    try:
        path = Path(source)
        with suppress(RuntimeError):  # no such user: then the name really starts with ~
            path = path.expanduser()
        mode = path.stat().st_mode  # not is_file(), which hides, since Python 3.14, what it met
        if not stat.S_ISREG(mode):
            state = "is a folder" if stat.S_ISDIR(mode) else "not an ordinary file"
            raise ImageError(f"{name}: {state}: give the path of an image file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ImageError(f"{name}: no such file: give the path of an image file") from error
    except OSError as error:
        reason = error.strerror or error
        raise ImageError(f"{name}: cannot be read ({reason}): check the path") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: more than {MAX_FILE_BYTES:,} bytes: shrink it first")
    return data, name


def _read_data_url(url: str) -> tuple[bytes, str]:
    """As browsers read it (WHATWG, Fetch): what is not base64 is percent-encoded."""
    head, comma, payload = url.partition(",")
    if not comma:
        raise ImageError(
            f"data URL starts {url[:40]!r}; allowed: data:image/png;base64,... (or another type)"
        )
    if len(payload) > MAX_FILE_BYTES:
        raise ImageError(
            f"data URL of {len(payload):,} characters; at most {MAX_FILE_BYTES:,} are read:"
            " shrink it"
        )
    payload = payload.partition("#")[0]
    if not _SAYS_BASE64.search(head):
        return urllib.parse.unquote_to_bytes(payload), "data URL"
    try:
        text = payload if "%" not in payload else urllib.parse.unquote(payload, "latin-1")
        return forgiving_base64(text), "data URL"
    except ValueError as error:
        raise ImageError(f"data URL: not valid base64 ({error}): encode the file again") from error


def forgiving_base64(text: str) -> bytes:
    """Bytes of base64 with line ends and blanks in it, or without its padding (WHATWG, Infra).

    Raises:
        ValueError: it is none.
    """
    text = text.translate(_BLANKS)
    if len(text) % 4 == 0:
        text = text[:-2] + text[-2:].replace("=", "") if text.endswith("=") else text
    if len(text) % 4 == 1:
        raise ValueError(f"{len(text):,} characters, one too many or some too few")
    if "=" in text:
        raise ValueError("'=' stands before its end")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _bare_base64(text: str) -> bytes | None:
    """The file that a string is, in base64 without an address; None if it is the name of one.

    Only what begins as a picture or a PDF does is taken for one.
    """
    if len(text) > MAX_FILE_BYTES or len(text) < _LEAST_BASE64:
        return None
    if len(text) < _LONGEST_NAME and os.path.exists(text):
        return None
    try:
        start = text[:_LONGEST_NAME].translate(_BLANKS).rstrip("=")
        start = forgiving_base64(start[: len(start) // 4 * 4])
        return forgiving_base64(text) if is_picture(start) or is_pdf(start) else None
    except ValueError:
        return None


def _read_open_file(file: Any) -> tuple[bytes, str]:
    """All of a file that somebody has opened, from its beginning, as Pillow reads it."""
    name = getattr(file, "name", None)
    name = short_name(name) if isinstance(name, str) else "open file"
    try:
        with suppress(AttributeError, io.UnsupportedOperation):
            file.seek(0)
        data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read ({error}): open it again") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ImageError(
            f"{name}: gives {type(data).__name__}, not bytes: open it with open(name, 'rb')"
        )
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: more than {MAX_FILE_BYTES:,} bytes: shrink it first")
    return bytes(data), name


class _HttpOnlyRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect must not lead out of HTTP, to `file://` or `ftp://`. A password goes along to
    the same server only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        there, own = urllib.parse.urlsplit(newurl), urllib.parse.urlsplit(req.full_url)
        if there.scheme not in ("http", "https"):
            fp.close()
            raise ImageError(
                f"{short_name(req.full_url)}: redirects to {newurl[:60]!r}; only http and https "
                "are followed: give another address"
            )
        public, key = _without_password(newurl)
        found = super().redirect_request(req, fp, code, msg, headers, public)
        if key is None and (there.scheme, there.netloc) == (own.scheme, own.netloc):
            key = req.unredirected_hdrs.get("Authorization")
        if found is not None and key is not None:
            found.add_unredirected_header("Authorization", key)
        return found


def _without_password(url: str) -> tuple[str, str | None]:
    """An address without its user and password, and the header that says them."""
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    key = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), f"Basic {key}"


def _read_url(url: str, sources: Sources) -> tuple[bytes, str]:
    """Fetch at most MAX_URL_BYTES in at most URL_SECONDS, looking up the name included.

    A thread does it, since neither a name server nor a server that sends its headers letter by
    letter knows our limit. One that is late is left alone and ends at its next timeout.
    """
    try:
        public, key = _without_password(url)
    except ValueError:
        public, key = url, None  # which nobody can fetch; that is said below
    name, found = short_name(public), []

    def fetch() -> None:
        try:
            found.append(_fetch(public, key, name, sources))
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is an answer too, and holds the connection
            found.append(error)

    thread = threading.Thread(target=fetch, name="image fetch", daemon=True)
    thread.start()
    thread.join(URL_SECONDS)
    result = found[0] if found else TimeoutError(f"slower than {URL_SECONDS:g} s")
    if isinstance(result, ImageError):
        raise result
    if isinstance(result, Exception):
        reason = short_name(str(getattr(result, "reason", "") or result))
        raise ImageError(f"{name}: could not be fetched ({reason}): check the address") from result
    return result, name


def _fetch(url: str, key: str | None, name: str, sources: Sources) -> bytes:
    opener = urllib.request.build_opener(_HttpOnlyRedirects, *handlers(sources))
    agent = {"User-Agent": f"pixtral-mlx/{__version__}"}
    request = urllib.request.Request(_ascii(url), headers=agent)
    if key is not None:
        request.add_unredirected_header("Authorization", key)
    too_large = f"{name}: more than {MAX_URL_BYTES:,} bytes: download it and shrink it first"
    data = bytearray()
    with opener.open(request, timeout=URL_SECONDS) as response:
        stated = response.headers.get("Content-Length") or ""
        if stated.isdecimal() and int(stated) > MAX_URL_BYTES:
            raise ImageError(too_large)
        while block := response.read1(_BLOCK_BYTES):
            data += block
            if len(data) > MAX_URL_BYTES:
                raise ImageError(too_large)
        if stated.isdecimal() and len(data) < int(stated):
            raise http.client.IncompleteRead(b"", int(stated) - len(data))
        coding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    decoded = _decoded(bytes(data), coding)
    if len(decoded) > MAX_URL_BYTES:
        raise ImageError(too_large)
    return decoded


def _decoded(data: bytes, coding: str) -> bytes:
    """What a server packed although it was not asked to; a byte more than is allowed at most.

    Raises:
        ValueError: packed in a way that is not read here, or damaged.
    """
    if coding == "identity":
        return data
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"sent as {short_name(coding)!r}; allowed: gzip and deflate")
    with_header = coding != "deflate" or data[:1] == b"\x78"  # some send deflate without
    unpacking = zlib.decompressobj(47 if with_header else -15)
    try:
        return unpacking.decompress(data, MAX_URL_BYTES + 1)
    except zlib.error as error:
        raise ValueError(f"damaged {coding} ({error})") from error


def _ascii(url: str) -> str:
    """An address as people paste it, with its other letters and blanks encoded."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    return urllib.parse.quote(urllib.parse.urlunsplit(parts._replace(netloc=host)), _URL_LETTERS)
