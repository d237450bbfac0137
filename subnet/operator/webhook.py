"""Posting to a webhook that may be slow, silent, hostile, or not what its name says.

The address is resolved here and the connection goes to the address that was checked, so a name
cannot lead to one place when it is looked at and to another when it is dialled. Redirects are not
followed: an answer that is none of 2xx is a failure.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

from subnet.errors import ConfigError, SubnetError

MAX_URL = 2048
MAX_HEAD_BYTES = 16 * 1024
READ_BYTES = 4096
POST_TIMEOUT_S = 10.0
RETRIED = frozenset({408, 425, 429})
"""Refusals that a later attempt may not meet; so may any error of the server."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class WebhookFailed(SubnetError):
    """The webhook did not take the message. ``may_retry`` says whether it might later."""

    def __init__(self, message: str, *, may_retry: bool = True) -> None:
        super().__init__(message)
        self.may_retry = may_retry


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where alerts go. The path may be a secret, so it has no repr.

    ``may_be_private`` allows addresses of this machine and of private networks, and http.
    """

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    may_be_private: bool

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/..."

    async def post(self, body: bytes, *, timeout_s: float = POST_TIMEOUT_S) -> None:
        """Send JSON; everything together takes ``timeout_s`` at most. Raises WebhookFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                status = await self._exchange(await self._resolve(), body)
        except TimeoutError as error:
            raise WebhookFailed(f"it did not answer within {timeout_s:g} s") from error
        except (OSError, h11.RemoteProtocolError) as error:
            # A certificate that does not fit is an OSError too.
            raise WebhookFailed(f"{type(error).__name__}: {error}") from error
        if not 200 <= status < 300:
            may_retry = status >= 500 or status in RETRIED
            raise WebhookFailed(f"it answered {status}", may_retry=may_retry)

    async def _resolve(self) -> str:
        """Return an address to dial. Raises WebhookFailed if any of them is not allowed."""
        found = await asyncio.get_running_loop().getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM
        )
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            if not self.may_be_private and not is_public(ipaddress.ip_address(address)):
                raise WebhookFailed(
                    "its name leads into this machine or a private network", may_retry=False
                )
        return addresses[0]

    async def _exchange(self, address: str, body: bytes) -> int:
        is_secure = self.scheme == "https"
        reader, writer = await asyncio.open_connection(
            address,
            self.port,
            ssl=ssl.create_default_context() if is_secure else None,
            server_hostname=self.host if is_secure else None,
            limit=MAX_HEAD_BYTES,
        )
        try:
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
            writer.write(self._encode(connection, body))
            await writer.drain()
            return await _read_status(connection, reader)
        finally:
            writer.transport.abort()

    def _encode(self, connection: h11.Connection, body: bytes) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        headers = [
            ("Host", f"{host}:{self.port}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        request = h11.Request(method="POST", target=self.target, headers=headers)
        events = (request, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(connection.send(event) or b"" for event in events)


async def _read_status(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    """Return the answer's status; its body is not read."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Response):
            return event.status_code
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the connection ended without an answer")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def parse_webhook(url: str, *, may_be_private: bool) -> Webhook:
    """Return a webhook to post to. Raises ConfigError, which never quotes the address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    is_printable = url.isascii() and url.isprintable() and " " not in url
    is_sound = len(url) <= MAX_URL and is_printable and host is not None and _can_be_resolved(host)
    if host is None or not is_sound or parts.username is not None:
        raise ConfigError(
            "the alert webhook is not an address such as https://hooks.example.org/...",
            "copy it from the service that takes the alerts",
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and may_be_private):
        raise ConfigError(
            "the alert webhook does not begin with https://",
            "give an https address, or --alert-webhook-private for one in your own network",
        )
    if not may_be_private and _is_known_private(host):
        raise ConfigError(
            "the alert webhook points into this machine or a private network",
            "give --alert-webhook-private if that is meant",
        )
    query = f"?{parts.query}" if parts.query else ""
    return Webhook(
        scheme=parts.scheme,
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        target=f"{parts.path or '/'}{query}",
        may_be_private=may_be_private,
    )


def _can_be_resolved(host: str) -> bool:
    """Whether a host's labels have lengths that a resolver takes; it raises UnicodeError if not."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _is_known_private(host: str) -> bool:
    """Whether the address says so by itself; a name is looked up at each message."""
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not is_public(ipaddress.ip_address(host))
    except ValueError:
        return False
