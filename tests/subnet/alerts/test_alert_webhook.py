"""A webhook that hangs, lies, redirects, or points where it must not."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from contextlib import asynccontextmanager

import pytest
import structlog

from subnet.alerts.book import Alert, AlertKind, AlertName
from subnet.alerts.sender import MAX_WAITING, RETRY_AFTER_S, AlertSender
from subnet.errors import ConfigError
from subnet.operator.webhook import WebhookFailed, is_public, parse_webhook

SECRET = "T0123/B4567/abcdefghijklmnop"
ALERT = Alert(AlertName(AlertKind.DISK_LOW), True, "0.5 GiB free")
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Receiver:
    """A server on loopback that answers with given bytes, or never."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.ends = []

    async def handle(self, reader, writer):
        end = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        try:
            await self.answer(reader, writer)
        finally:
            writer.transport.abort()
            end.set_result(None)

    async def answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.requests.append((head, await reader.readexactly(length)))
        answer = self.answers.pop(0) if self.answers else OK
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    @asynccontextmanager
    async def open(self):
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield parse_webhook(f"http://127.0.0.1:{port}/{SECRET}?x=1", may_be_private=True)
            await asyncio.gather(*self.ends)


async def send(receiver, *alerts):
    """Send the alerts; return the sender once the queue is empty and the waits that it took."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    async with receiver.open() as webhook:
        sender = AlertSender(webhook, node="node 3 of subnet 1", sleep=sleep)
        for alert in alerts:
            sender.put(alert)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(sender.run())
            await sender._waiting.join()
            running.cancel()
    return sender, waits


async def test_an_alert_arrives_as_json_with_a_sentence_for_chat_services():
    receiver = Receiver()
    await send(receiver, ALERT)
    ((head, body),) = receiver.requests
    assert head.startswith(f"POST /{SECRET}?x=1 HTTP/1.1\r\n".encode())
    message = json.loads(body)
    assert message["alert"] == "disk_low" and message["state"] == "firing"
    assert message["text"] == "node 3 of subnet 1: disk_low firing: 0.5 GiB free"


async def test_a_server_error_is_tried_again_and_a_refusal_is_not():
    failing = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
    receiver = Receiver(failing, failing, OK)
    sender, waits = await send(receiver, ALERT)
    assert (len(receiver.requests), sender.lost) == (3, 0)
    assert waits == list(RETRY_AFTER_S[:2])
    refusing = Receiver(b"HTTP/1.1 404 Gone\r\ncontent-length: 0\r\n\r\n")
    sender, waits = await send(refusing, ALERT)
    assert (len(refusing.requests), sender.lost, waits) == (1, 1, [])


async def test_attempts_are_bounded_and_what_is_lost_is_said_without_the_address():
    failing = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"
    receiver = Receiver(*[failing] * (len(RETRY_AFTER_S) + 1))
    with structlog.testing.capture_logs() as logs:
        sender, waits = await send(receiver, ALERT)
    assert sender.lost == 1 and waits == list(RETRY_AFTER_S)
    assert logs[-1]["event"] == "alert lost" and SECRET not in repr(logs)
    assert SECRET not in repr(sender._webhook)


async def test_a_redirect_is_not_followed():
    target = Receiver()
    async with target.open() as inside:
        moved = f"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:{inside.port}/\r\n\r\n"
        async with Receiver(moved.encode()).open() as webhook:
            with pytest.raises(WebhookFailed, match="it answered 307"):
                await webhook.post(b"{}")
    assert target.requests == []


async def test_one_that_never_answers_is_given_up():
    async with Receiver(None).open() as webhook:
        with pytest.raises(WebhookFailed, match="did not answer within"):
            await webhook.post(b"{}", timeout_s=0.2)


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-server\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 8000]
)
async def test_what_is_no_answer_is_a_failure(answer):
    async with Receiver(answer).open() as webhook:
        with pytest.raises(WebhookFailed):
            await webhook.post(b"{}")


async def test_a_full_queue_loses_alerts_and_never_waits():
    webhook = parse_webhook("http://127.0.0.1:9/", may_be_private=True)
    sender = AlertSender(webhook, node="node 3")
    for _ in range(MAX_WAITING + 5):
        sender.put(ALERT)
    assert sender.lost == 5


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://localhost/x",
        "https://printer.local/x",
        "https://10.0.0.1/x",
        "https://192.168.1.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/x",
        "https://[::1]/x",
        "https://[fd00::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[64:ff9b::7f00:1]/x",
        "https://[2002:7f00:1::]/x",
        "https://0.0.0.0/x",
    ],
)
def test_an_address_inside_is_refused_unless_it_is_meant(url):
    with pytest.raises(ConfigError, match="points into this machine or a private network"):
        parse_webhook(url, may_be_private=False)
    assert parse_webhook(url, may_be_private=True).scheme == "https"


@pytest.mark.parametrize("inside", ["127.0.0.1", "10.1.2.3", "::1"])
async def test_a_name_that_leads_inside_is_refused_when_it_is_dialled(inside, monkeypatch):
    async def resolve(host, port, **_):
        public = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))
        return [public, (socket.AF_INET, socket.SOCK_STREAM, 6, "", (inside, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    webhook = parse_webhook("https://rebound.example.org/x", may_be_private=False)
    with pytest.raises(WebhookFailed, match="leads into this machine") as failed:
        await webhook.post(b"{}")
    assert not failed.value.may_retry


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.org/x",
        "https://",
        "https://user:pass@example.org/x",
        "https://example.org:99999/x",
        # No resolver takes such a name: posting to it would end the node.
        "https://hooks..example.org/x",
        "https://.example.org/x",
        f"https://{'a' * 64}.example.org/x",
        "https://example.org/a b",
        "https://example.org/\r\nX: y",
        f"https://example.org/{'x' * 3000}",
        "ftp://example.org/x",
        "http://example.org/x",
    ],
)
def test_what_is_no_https_address_is_refused_without_being_quoted(url):
    with pytest.raises(ConfigError) as refused:
        parse_webhook(url, may_be_private=False)
    assert len(url) < 9 or url not in str(refused.value)


def test_public_addresses_are_public():
    for text in ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"):
        assert is_public(ipaddress.ip_address(text))
    assert not is_public(ipaddress.ip_address("224.0.0.1"))
