"""An endpoint that answers with other shapes than a node does costs an attempt, not the process."""

from __future__ import annotations

from typing import Any

import pytest

from subnet.chain.chain_session import ChainSession
from subnet.chain.endpoints import Endpoints
from subnet.chain.worker import ChainWorker
from subnet.errors import ChainUnavailable


class Interface:
    """A library client whose every request gets the same result."""

    runtime_version = 1

    def __init__(self, result: object) -> None:
        self._result = result

    def rpc_request(self, method: str, params: object) -> dict[str, object]:
        return {"result": self._result}

    def get_constant(self, pallet: str, name: str) -> None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
async def endpoints(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a maker of workers whose endpoints answer with the given results, in turn."""
    workers = []

    def make(*results: object) -> ChainWorker:
        urls = [f"ws://endpoint-{place}" for place, _ in enumerate(results)]

        def open_session(url: str, **_options: object) -> ChainSession:
            interface: Any = Interface(results[urls.index(url)])
            runtime: Any = type("Runtime", (), {"genesis_hash": bytes(32)})()
            return ChainSession(interface, url=url, runtime=runtime)

        monkeypatch.setattr(ChainSession, "open", open_session)
        monkeypatch.setattr("subnet.chain.endpoints.MAX_REST_S", 0.0)
        worker = ChainWorker(Endpoints(urls))
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker._session = None
        await worker.aclose()


def read_header(session: ChainSession) -> int:
    return session.read_header("0x00").number


@pytest.mark.parametrize(
    "result",
    [True, 7, "0x", [[]], {"number": "zz"}, {"number": "0x1"}, {"digest": None}, {"digest": []}],
)
async def test_answer_of_another_shape_is_an_outage(endpoints: Any, result: object) -> None:
    with pytest.raises(ChainUnavailable, match="cannot be read"):
        await endpoints(result).call(read_header)


async def test_endpoint_that_cannot_be_read_is_left_for_the_next(endpoints: Any) -> None:
    header = {"number": "0x5", "parentHash": "0x00", "digest": {"logs": []}}
    worker = endpoints({"number": None}, header)
    assert await worker.call(read_header) == 5
    assert worker.url == "ws://endpoint-1"
