"""A swarm in one event loop: real engines, real sessions, an in-memory network."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from keys.peer import PeerKey
from mesh.client.client import MeshClient
from mesh.client.grammars import make_grammar_compiler
from mesh.client.route_session import ClientTimeouts
from mesh.client.tokenizer import ChatTokenizer
from mesh.inference.engine import Engine, EngineLimits
from mesh.inference.hops import SessionTimeouts
from mesh.inference.session_server import SessionServer
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from mesh.model.weights import load_shard
from mesh.p2p.config import HostConfig
from mesh.routing.announcer import Announcer
from mesh.routing.directory import Directory
from mesh.routing.heartbeat import ServerInfo, ServerRole, ServerState, make_heartbeat_policy
from mesh.routing.info import NetworkInfo
from tests.support.memory_network import MemoryNetwork

NETWORK_ID = b"n" * 32


def make_tokenizer() -> Tokenizer:
    """Two special tokens and all 256 bytes: multi-byte characters need several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {symbol: 3 + place for place, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


async def end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class HeartbeatsOnly:
    """The record policy of a network without consensus."""

    def __init__(self):
        self.admit = make_heartbeat_policy(NETWORK_ID, is_member=lambda peer: True, clock=time.time)


@dataclass
class Hoster:
    """One hoster of the swarm; ``stop`` ends it as a crash would."""

    key: PeerKey
    engine: Engine
    server: SessionServer
    announcer: Announcer
    directory: Directory
    stack: contextlib.AsyncExitStack
    state: ServerState = ServerState.ONLINE
    throughput: int = 1000
    features: str = "dfgrs"

    async def stop(self) -> None:
        await self.stack.aclose()


@dataclass
class Swarm:
    """Hosters and clients over one checkpoint."""

    folder: Any
    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    hosters: list[Hoster] = field(default_factory=list)
    timeouts: SessionTimeouts = field(default_factory=SessionTimeouts)
    _numbers: int = 0

    def next_key(self) -> PeerKey:
        self._numbers += 1
        return PeerKey(bytes([self._numbers]) * 32)

    async def open_host(self, stack: contextlib.AsyncExitStack, key: PeerKey):
        config = HostConfig(key=key, network_id=NETWORK_ID, record_policy=HeartbeatsOnly())
        return await stack.enter_async_context(self.network.open(config))

    async def add_hoster(
        self,
        start: int,
        end: int,
        *,
        limits: EngineLimits | None = None,
        throughput: int = 1000,
        deterministic: bool = True,
        threads: int = 1,
        dtype: str = "float32",
        quant_type: str = "none",
        features: str = "dfgrs",
        speculates: bool = True,
    ) -> Hoster:
        stack = contextlib.AsyncExitStack()
        config = load_config(self.folder)
        located = resolve_model_folder(str(self.folder))
        engine = await stack.enter_async_context(
            Engine.open(
                lambda: load_shard(
                    located, config, start=start, end=end, dtype=dtype, quant_type=quant_type
                ),
                limits=limits or EngineLimits(prefill_chunk=8),
                threads=threads,
                deterministic=deterministic,
            )
        )
        engine.grammars = make_grammar_compiler(located.source, config)
        # Fixtures start and end in different tasks, so a TaskGroup cannot span them.
        serving = asyncio.get_running_loop().create_task(engine.serve())
        stack.push_async_callback(end_task, serving)
        key = self.next_key()
        host = await self.open_host(stack, key)
        directory = Directory(host, network_id=NETWORK_ID)
        server = SessionServer(
            host,
            engine,
            timeouts=self.timeouts,
            connect=directory.ensure_connected,
            speculates=speculates,
            key=key,
        )
        server.register()
        addresses = tuple(await host.list_addresses())

        def describe() -> ServerInfo:
            return ServerInfo(
                role=ServerRole.HOSTER,
                state=hoster.state,
                span=engine.layers,
                throughput=hoster.throughput,
                free_cache_tokens=engine.free_cache_tokens,
                dtype="float32",
                software=f"test;{hoster.features}",
                addresses=addresses,
            )

        announcer = Announcer(
            host,
            directory,
            key=key,
            network_id=NETWORK_ID,
            node_id=len(self.hosters) + 1,
            describe=describe,
        )
        hoster = Hoster(
            key,
            engine,
            server,
            announcer,
            directory,
            stack,
            throughput=throughput,
            features=features,
        )
        info = NetworkInfo(NETWORK_ID, bytes(32), "tiny", 6, 256, 259, "test")
        directory.serve(lambda: info)
        await announcer.announce()
        self.hosters.append(hoster)
        peers = [other.key.peer_id for other in self.hosters]
        for other in self.hosters:
            await other.directory.fetch_from_records(peers)
        return hoster

    async def open_client(
        self, stack: contextlib.AsyncExitStack, *, timeouts: ClientTimeouts | None = None
    ) -> MeshClient:
        host = await self.open_host(stack, self.next_key())
        directory = Directory(host, network_id=NETWORK_ID)
        peers: Sequence = [hoster.key.peer_id for hoster in self.hosters]
        client = MeshClient(
            host,
            directory,
            config=load_config(self.folder),
            tokenizer=ChatTokenizer.load(self.folder),
            peers=peers,
            timeouts=timeouts or ClientTimeouts(),
        )
        await client.refresh()
        return client


@pytest.fixture(scope="session")
def chat_checkpoint(make_checkpoint):
    """A random checkpoint with the byte tokenizer and a chat template."""
    return add_chat(make_checkpoint(vocab_size=259, seed=11))


def add_chat(folder):
    """Put the byte tokenizer and a chat template beside a checkpoint; returns its folder."""
    make_tokenizer().save(str(folder / "tokenizer.json"))
    template = (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message['role'] == 'nobody' %}{{ raise_exception('no such role') }}{% endif %}"
        "{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return folder


@pytest.fixture
async def swarm(chat_checkpoint):
    swarm = Swarm(chat_checkpoint)
    yield swarm
    for hoster in swarm.hosters:
        await hoster.stop()
