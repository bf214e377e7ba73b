"""HTTP that reaches what a rule of `Sources` allows, and nothing else."""

import http.client
import ipaddress
import socket
import urllib.request
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..errors import ImageError
from .sources import Sources


def handlers(rule: Sources) -> Sequence[urllib.request.BaseHandler]:
    """What urllib needs to keep the rule."""
    if rule.private:
        return ()
    return urllib.request.ProxyHandler({}), _Checked(rule)


def connect(
    rule: Sources, address: tuple[str, int], timeout: Any = None, source_address: Any = None
) -> socket.socket:
    """As `socket.create_connection`, within the rule.

    Raises:
        ImageError: an address that is not public.
        OSError: nobody is there.
    """
    host, port = address
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if host.lower().rstrip(".") not in rule.hosts:
        for *_, place in found:
            if not is_public(str(place[0])):
                raise ImageError(
                    f"{host[:100]}: in a private network, or this machine; allowed: addresses "
                    "of the public internet (others with --allow-net)"
                )
    problem: OSError = OSError(f"{host[:100]} has no address")
    for family, kind, protocol, _, place in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(place)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


_TRANSLATED = [ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48")]
"""IPv6 that gateways turn into the IPv4 in its last 32 bits (RFC 6052, RFC 8215)."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, whatever it wraps.

    Arguments:
        address: of IPv4 or IPv6, as `getaddrinfo` gives it.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is None and any(found in net for net in _TRANSLATED):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if int(found) >> 32 == 0 or found.is_site_local:  # both long out of use
            return False
    return found.is_global and not found.is_multicast


class _Checked(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Takes the place of both of urllib's own."""

    def __init__(self, rule: Sources):
        super().__init__()
        self._rule = rule

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_with(http.client.HTTPConnection, self._rule), req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_with(http.client.HTTPSConnection, self._rule), req)


def _with(kind: type[http.client.HTTPConnection], rule: Sources) -> Any:
    """A connection class that connects as the rule does; TLS still checks the name."""

    def build(host: str, **options: Any) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection._create_connection = partial(connect, rule)  # type: ignore[attr-defined]
        return connection

    return build
