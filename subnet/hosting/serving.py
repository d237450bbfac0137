"""Serving layers: check the weights, load, prove by a measurement, offer; and move when it helps.

A move happens between two epochs' work: it starts in PROPOSE, when nothing is committed for the
epoch yet, after the open sessions have ended. A commit names the layers that were computed, so
the next one names the new range. While the new layers load, the node serves nothing and its
heartbeat says so; that the layers it leaves stay served is the rule of mesh/routing/placement.py.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from consensus.phases import Phase, Schedule, phase_at
from consensus.protocol_params import ConsensusParams
from consensus.types import EpochPosition, LayerRange
from keys.peer import PeerKey
from mesh.client.grammars import make_grammar_compiler
from mesh.errors import ManifestNotFound
from mesh.inference.accounts import Accounts, IsMember
from mesh.inference.challenge_guard import ChallengeGuard
from mesh.inference.engine import Engine
from mesh.inference.measures import ServingMeasures
from mesh.inference.session_server import SessionServer
from mesh.model.abandon import CheckWanted, run_abandonable
from mesh.model.config import ModelConfig
from mesh.model.files import ModelFolder
from mesh.model.manifest import ModelManifest, check_manifest
from mesh.model.self_check import check_float32
from mesh.model.weights import ShardWeights, load_shard
from mesh.p2p.interface import Host
from mesh.routing.directory import Directory
from mesh.routing.features import Feature
from mesh.routing.heartbeat import MAX_SOFTWARE, ServerState
from mesh.routing.load import Load, add_load
from subnet.epoch.interfaces import Inference
from subnet.errors import ConfigError
from subnet.hosting.layer_choice import LayerChoice, get_format
from subnet.hosting.limits import choose_limits
from subnet.hosting.manifest import describe_constants
from subnet.operator.access import Rank
from subnet.operator.config import NodeConfig

MIN_STAY_S = 900.0
"""A range is kept at least this long before a move: loading costs the swarm a hoster."""
MOVE_DRAIN_S = 20.0
DRAIN_STEP_S = 0.1

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SubnetModel:
    """What the subnet's hosters must serve, and by which numbers.

    A node without pay may have no manifest: its weights are not checked.
    """

    manifest: ModelManifest | None
    params: ConsensusParams
    schedule: Schedule


@dataclass(frozen=True, slots=True)
class LocalModel:
    """The model at hand and how the operator serves it: ``config`` names device and types."""

    config: NodeConfig
    folder: ModelFolder
    model: ModelConfig


@asynccontextmanager
async def open_engine(
    local: LocalModel,
    served: SubnetModel,
    layers: LayerRange,
    *,
    guard: ChallengeGuard | None = None,
    measures: ServingMeasures | None = None,
) -> AsyncIterator[Engine]:
    """Check the weights against the manifest and load them. Raises ModelError.

    When cancelled, it ends after the piece that is being read. The weights of a node without pay
    are not checked, and neither is its arithmetic.
    """
    config, model = local.config, local.model
    form = get_format(config, model)
    if config.hop_dtype != "auto" and form.dtype != "float32":
        raise ConfigError(
            f"--hop-dtype is for a model of float32, and this one computes in {form.dtype}",
            "leave --hop-dtype out",
        )
    if not config.unpaid:
        await run_abandonable(lambda check: _check_weights(local, served, layers, check))
    weights = await run_abandonable(
        lambda check: load_shard(
            local.folder,
            model,
            start=layers.start,
            end=layers.end,
            dtype=form.dtype,
            device=config.device,
            quant_type=form.quant_type,
            check_wanted=check,
        )
    )

    def check_and_give() -> ShardWeights:
        """Run on the compute thread, whose settings are the engine's."""
        if not config.unpaid:
            check_float32(model, weights.get_layer(layers.start), weights.device)
        return weights

    async with Engine.open(
        check_and_give,
        limits=choose_limits(config),
        threads=config.threads or os.cpu_count() or 1,
        deterministic=config.deterministic,
        guard=guard,
        measures=measures,
        hop_dtype=None if config.hop_dtype == "auto" else config.hop_dtype,
    ) as engine:
        engine.grammars = make_grammar_compiler(local.folder.source, model)
        yield engine


def _check_weights(
    local: LocalModel, served: SubnetModel, layers: LayerRange, check_wanted: CheckWanted
) -> None:
    form = get_format(local.config, local.model)
    if served.manifest is None:
        raise ManifestNotFound("there is no manifest to compare the weights with")
    check_manifest(
        served.manifest,
        local.folder,
        local.model,
        start=layers.start,
        end=layers.end,
        served_dtype=form.dtype,
        constants=describe_constants(served.params),
        quant_type=form.quant_type,
        check_wanted=check_wanted,
    )


class EngineInference:
    """The engine as the epoch loop sees it. Satisfies subnet.epoch.interfaces.Inference."""

    def __init__(self, engine: Engine, layers: LayerRange) -> None:
        self._layers = layers
        self.run_tasks = engine.run_tasks

    @property
    def layers(self) -> LayerRange:
        return self._layers


class LayerServer:
    """One hoster's layers over its life. ``announce`` is called whenever what it says changed.

    ``layers`` are those that the operator names; None: ``choice`` finds them. ``rank`` gives a
    caller's priority. ``is_member`` says who may pass on sessions of others; None: all peers.
    ``guard`` knows the open challenges, whichever layers are served. ``key`` is the host's and
    signs receipts of answers; without it none are given.
    """

    def __init__(
        self,
        local: LocalModel,
        served: SubnetModel,
        *,
        host: Host,
        directory: Directory,
        choice: LayerChoice,
        announce: Callable[[], None],
        layers: LayerRange | None = None,
        rank: Rank | None = None,
        is_member: IsMember | None = None,
        guard: ChallengeGuard | None = None,
        key: PeerKey | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local = local
        self._fixed_layers = layers
        self._rank = rank
        self.guard = guard or ChallengeGuard()
        self.measures = ServingMeasures()
        self._served = served
        self._host = host
        self._directory = directory
        self._choice = choice
        self._announce = announce
        self._is_member = is_member
        self._clock = clock
        self._key = key
        self._engine: Engine | None = None
        self._sessions: SessionServer | None = None
        self._position: EpochPosition | None = None
        self._news = asyncio.Event()
        self._since_s = 0.0
        self.state = ServerState.JOINING
        self.layers = layers
        self.throughput = 0

    @property
    def free_cache_tokens(self) -> int:
        return 0 if self._engine is None else self._engine.free_cache_tokens

    def add_load(self, software: str) -> str:
        """Return a heartbeat's name of the program with how busy this hoster is."""
        engine = self._engine
        load = Load() if engine is None else Load(engine.session_count, engine.waiting_count)
        return add_load(software, load, max_size=MAX_SOFTWARE)

    @property
    def cache_tokens(self) -> int:
        """Slots of the cache, free or not; 0 while layers load."""
        return 0 if self._engine is None else self._engine.limits.cache_tokens

    @property
    def session_count(self) -> int:
        return 0 if self._engine is None else self._engine.session_count

    @property
    def waiting_count(self) -> int:
        """Sessions whose next step waits for the compute thread."""
        return 0 if self._engine is None else self._engine.waiting_count

    @property
    def rows_computed(self) -> int:
        """Rows of sessions that this node has computed since its start."""
        return self.measures.prompt_rows + self.measures.decode_rows

    @property
    def features(self) -> tuple[Feature, ...]:
        """What a heartbeat says that sessions here can do; nothing while layers load."""
        if self._engine is None:
            return ()
        able = {
            Feature.SHAPED: True,
            Feature.GRAMMAR: self._engine.grammars is not None,
            Feature.RECEIPT: self._key is not None,
            Feature.REFILL: True,
            Feature.DRIVEN_REFILL: True,
        }
        return tuple(feature for feature, is_there in able.items() if is_there)

    @property
    def dtype(self) -> str:
        """What a heartbeat says about the weights; nothing while they load."""
        if self._engine is None:
            return ""
        return get_format(self._local.config, self._local.model).served_dtype

    def get_inference(self) -> Inference | None:
        """Return the engine for challenges; None while layers load."""
        if self._engine is None or self.layers is None:
            return None
        return EngineInference(self._engine, self.layers)

    def note_position(self, position: EpochPosition) -> None:
        """Hear where the chain stands: moves follow its clock."""
        self._position = position
        self._news.set()

    async def run(self, on_online: Callable[[], None]) -> None:
        """Serve until cancelled. Raises ConfigError or ModelError."""
        layers = self._fixed_layers or await self._choice.choose_first()
        while True:
            layers = await self._serve(layers, on_online)

    async def _serve(self, layers: LayerRange, on_online: Callable[[], None]) -> LayerRange:
        """Load ``layers``, prove them, offer them; return where to move in the end."""
        self.layers, self.state, self.throughput = layers, ServerState.JOINING, 0
        # Before anything is loaded, so that the next newcomer counts on it.
        self._announce()
        async with open_engine(
            self._local, self._served, layers, guard=self.guard, measures=self.measures
        ) as engine:
            async with asyncio.TaskGroup() as tasks:
                computing = tasks.create_task(engine.serve())
                self.throughput = await engine.measure_throughput()
                self._engine = engine
                self._since_s = self._clock()
                self._offer(engine)
                on_online()
                target = await self._wait_for_move(engine, layers)
                self._engine = None
                if self._sessions is not None:
                    # It holds the engine, and a device may have no room for two ranges.
                    self._sessions.close()
                    self._sessions = None
                computing.cancel()
        logger.info("moving", blocks=str(layers), target=str(target))
        return target

    def _offer(self, engine: Engine) -> None:
        self._sessions = SessionServer(
            self._host,
            engine,
            accounts=Accounts(rank=self._rank, is_member=self._is_member),
            connect=self._directory.ensure_connected,
            key=self._key,
            speculates=self._local.config.speculate != "off",
        )
        self._sessions.register()
        self.state = ServerState.ONLINE
        self._announce()

    async def _wait_for_move(self, engine: Engine, layers: LayerRange) -> LayerRange:
        """Wait for the epoch in which it is right to move, and for the sessions to end."""
        asked_in = -1
        while True:
            await self._news.wait()
            self._news.clear()
            position = self._position
            if position is None or position.epoch == asked_in or not self._may_move(position):
                continue
            asked_in = position.epoch
            target = await self._choice.choose_move(
                layers, throughput=self.throughput, epoch=position.epoch
            )
            if target is None:
                continue
            self.begin_drain()
            self._announce()
            if await self.wait_for_sessions(MOVE_DRAIN_S) and self._is_still(position):
                return target
            self._offer(engine)

    def _may_move(self, position: EpochPosition) -> bool:
        is_placed = self._fixed_layers is None
        is_settled = self._clock() - self._since_s >= MIN_STAY_S
        return (
            is_placed and is_settled and phase_at(position, self._served.schedule) is Phase.PROPOSE
        )

    def _is_still(self, position: EpochPosition) -> bool:
        """Whether PROPOSE of that epoch still lasts: afterwards a commit may be under way."""
        now = self._position
        return now is not None and now.epoch == position.epoch and self._may_move(now)

    def begin_drain(self) -> None:
        """Refuse new sessions from now on; the open ones go on."""
        self.state = ServerState.DRAINING
        if self._sessions is not None:
            self._sessions.drain()

    async def wait_for_sessions(self, timeout_s: float) -> bool:
        """Wait until no session is open; False if some still are after ``timeout_s``."""
        for _ in range(int(timeout_s / DRAIN_STEP_S)):
            if self._engine is None or not self._engine.session_count:
                return True
            await asyncio.sleep(DRAIN_STEP_S)
        return False
