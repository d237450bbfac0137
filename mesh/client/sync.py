"""The clients for programs without an event loop: the same words in plain loops.

    with SyncHttpMeshClient("http://127.0.0.1:8000", api_key=key) as client:
        for token in client.generate("Hello", max_new_tokens=50):
            print(token.text, end="")

The event loop runs in a thread that ends with the client. ``SyncHttpMeshClient`` needs httpx and
nothing else, as ``HttpMeshClient`` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from mesh.client.bridge import LoopClosed, LoopThread
from mesh.client.http import HttpMeshClient, HttpPrompt, HttpTimeouts
from mesh.client.receipts import AnswerReceipt
from mesh.inference.sampling import Sampling
from mesh.inference.tokens import Token

if TYPE_CHECKING:
    from keys.peer import PeerKey
    from mesh.client.client import MeshClient, Prompt
    from mesh.client.connection import OnWait
    from mesh.client.route_search import RoutingOptions
    from mesh.client.route_session import ClientTimeouts

Client = TypeVar("Client")


class _SyncClient(Generic[Client]):
    """Holds a client open in the event loop of another thread."""

    def __init__(self, enter: Callable[[], AbstractAsyncContextManager[Client]]) -> None:
        self._thread: LoopThread[Client] = LoopThread("mesh client")
        self._client, self._bridge = self._thread.open(enter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the client and end its thread; idempotent."""
        self._thread.close()

    def _loop_over(self, tokens: AsyncGenerator[Token, None]) -> Generator[Token, None, None]:
        async def draw() -> Token | None:
            return await anext(tokens, None)

        async def leave() -> None:
            await tokens.aclose()

        try:
            while (token := self._bridge.run(draw())) is not None:
                yield token
        finally:
            # A client that is closed has left every answer.
            with contextlib.suppress(LoopClosed):
                self._bridge.run(leave())


class SyncHttpMeshClient(_SyncClient[HttpMeshClient]):
    """``HttpMeshClient`` for programs without an event loop; several threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeouts: HttpTimeouts | None = None,
    ) -> None:
        """``model`` None means the first one that the gateway lists."""
        super().__init__(
            lambda: HttpMeshClient(url, api_key=api_key, model=model, timeouts=timeouts)
        )

    def list_models(self) -> tuple[str, ...]:
        """Return the names of the models that are complete now. Raises GatewayError."""
        return self._bridge.run(self._client.list_models())

    def generate(
        self,
        prompt: HttpPrompt,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        receipt: AnswerReceipt | None = None,
    ) -> Generator[Token, None, None]:
        """Yield the answer token by token, as ``HttpMeshClient.generate`` does."""
        return self._loop_over(
            self._client.generate(
                prompt,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                stop=stop,
                receipt=receipt,
            )
        )


class SyncMeshClient(_SyncClient[Any]):
    """``MeshClient`` for programs without an event loop; several threads may share it."""

    _client: MeshClient

    def __init__(
        self,
        initial_peers: Sequence[str],
        *,
        model: str | None = None,
        key: PeerKey | None = None,
        timeouts: ClientTimeouts | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        """Dial the initial peers and learn the network. Takes and raises what ``connect`` does."""
        # With it come hivemind and torch, which a client over HTTP does without.
        from mesh.client.connection import connect

        told: dict[str, Any] = {} if on_wait is None else {"on_wait": on_wait}
        super().__init__(
            lambda: connect(initial_peers, model=model, key=key, timeouts=timeouts, **told)
        )

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the prompt's token ids. Raises InvalidRequest naming what is wrong."""
        return self._client.encode(prompt)

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        routing: RoutingOptions | None = None,
        user: str = "",
        ignore_eos: bool = False,
        receipt: AnswerReceipt | None = None,
    ) -> Generator[Token, None, None]:
        """Yield the answer token by token, as ``MeshClient.generate`` does."""
        return self._loop_over(
            self._client.generate(
                prompt,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                stop=stop,
                routing=routing,
                user=user,
                ignore_eos=ignore_eos,
                receipt=receipt,
            )
        )

    def score(
        self, prompt: Prompt, *, top_logprobs: int = 0, routing: RoutingOptions | None = None
    ) -> tuple[Token, ...]:
        """Return each token of the prompt after its first, as ``MeshClient.score`` does."""
        return self._bridge.run(
            self._client.score(prompt, top_logprobs=top_logprobs, routing=routing)
        )
