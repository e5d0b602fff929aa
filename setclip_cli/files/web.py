"""One request over HTTP that goes only where it may: a server can redirect it, but not to everything it likes.

A redirect keeps its scheme (or goes from http to https), goes to the internet (or to the kind of network where the
first address already was), and is at most the fifth. Each request carries our own headers alone, so nothing meant for
one host reaches another. What is checked is the address that the connection has, not only what a name server said.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import string
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from setclip_cli.console import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_REDIRECTS = 5
HEADERS_WITHIN_S = 120.0  # from the request to the end of the answer's headers
_REDIRECTS = (301, 302, 303, 307, 308)
_SHOWN = 200  # characters of a server's words in a message
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedError(Exception):
    """A server answered with something that is not accepted; asking again does not help."""


def shown(words: object) -> str:
    """A server's words for a message: safe, and not too long."""
    text = visible(str(words)[: 2 * _SHOWN])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def open_url(url: str, headers: Mapping[str, str], *, timeout: float) -> http.client.HTTPResponse:
    """Asks for an address and follows redirects.

    Raises:
        RefusedError: the address cannot be used, or a redirect goes where it must not.
        urllib.error.URLError: no answer; as HTTPError, one that is not the file.
    """
    allowed: set[str] | None = None  # of networks; the first address may be in any
    for _ in range(MAX_REDIRECTS + 1):
        try:
            parts = urllib.parse.urlsplit(url)
            host = parts.hostname or ""
            if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.port == 0:
                raise ValueError("it must be http or https, with a host, and without a user name")
            networks = _networks_of(host)
            if allowed is not None and not networks <= allowed:
                strange = ", ".join(sorted(networks - allowed))
                raise RefusedError(f"it redirects to {shown(url)}, which is in {strange}")
            direct = not _goes_through_a_proxy(parts)
            response = _opener(allowed if direct else None).open(
                urllib.request.Request(url, headers=dict(headers)), timeout=timeout
            )
            assert isinstance(response, http.client.HTTPResponse)  # an opener for http and https alone
            return response
        except urllib.error.HTTPError as answer:
            location = answer.headers.get("Location")
            if answer.code not in _REDIRECTS or not location:
                raise
            answer.close()  # its body is not read: it may have no end
            url = _next_address(url, location)
        except (ValueError, http.client.InvalidURL) as error:
            raise RefusedError(f"{shown(url)} is not a usable address ({shown(error)})") from error
        except urllib.error.URLError:
            raise
        except OSError as error:
            raise urllib.error.URLError(error) from error
        if allowed is None:
            allowed = {"the internet"} | networks
    raise RefusedError(f"it redirects more than {MAX_REDIRECTS} times")


def _next_address(url: str, location: str) -> str:
    quoted = urllib.parse.quote(location, safe=string.punctuation, encoding="iso-8859-1")
    try:
        found = urllib.parse.urljoin(url, quoted)
        schemes = tuple(urllib.parse.urlsplit(one).scheme for one in (url, found))
    except ValueError as error:
        raise RefusedError(f"it redirects to {shown(location)}, which is not an address ({shown(error)})") from error
    if schemes[1] not in (schemes[0], "https"):
        wanted = "https" if schemes[0] == "https" else "http or https"
        raise RefusedError(f"it redirects to {shown(found)}, which is not {wanted}")
    return found


def network_of(address: str) -> str:
    """In which kind of network an IP address is, in words."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):  # those that lead to an IPv4 address
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner:
            return network_of(str(inner))
    if found.is_loopback or found.is_unspecified:
        return "this machine (loopback)"
    if found.is_link_local:
        return "the local link"
    return "the internet" if found.is_global and not found.is_multicast else "a private network"


def _networks_of(host: str) -> set[str]:
    """The networks of all addresses that a host name, or an address however it is written, leads to."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:  # the connection, or the proxy, will say so
        return {"the internet"}
    return {network_of(str(address[0])) for *_, address in found}


def _goes_through_a_proxy(parts: urllib.parse.SplitResult) -> bool:
    return parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.netloc)


def _opener(allowed: set[str] | None) -> urllib.request.OpenerDirector:
    """Knows http and https, proxies, and no redirects.

    Args:
        allowed: The networks that a connection may reach; None for any, and for a proxy.
    """

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            _check_peer(self, allowed)

        def getresponse(self) -> http.client.HTTPResponse:
            with _deadline(self):
                return super().getresponse()

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            _check_peer(self, allowed)

        def getresponse(self) -> http.client.HTTPResponse:
            with _deadline(self):
                return super().getresponse()

    class Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
        def __init__(self) -> None:
            urllib.request.AbstractHTTPHandler.__init__(self)

        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, request)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        Handler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _check_peer(connection: Any, allowed: set[str] | None) -> None:
    address = str(connection.sock.getpeername()[0])
    if allowed is not None and network_of(address) not in allowed:
        connection.close()
        raise RefusedError(f"it redirects to {shown(connection.host)} at {address}, which is in {network_of(address)}")


@contextmanager
def _deadline(connection: Any) -> Iterator[None]:
    """Ends a connection whose headers do not: each of their bytes would start the timeout of the socket anew."""
    opened = connection.sock

    def end() -> None:
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(HEADERS_WITHIN_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
