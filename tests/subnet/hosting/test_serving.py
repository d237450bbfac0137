"""A hoster that chooses its layers: what fits, where it helps, and moves between epochs' work."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from consensus.phases import compute_schedule
from consensus.protocol_params import MAINNET
from consensus.types import BlockNumber, Epoch, EpochPosition, LayerRange, Role
from keys.peer import PeerKey
from mesh.assets import shipped_model_path
from mesh.errors import InexactArithmetic, ManifestMismatch
from mesh.inference.accounts import OWN_ACCOUNT, Account
from mesh.inference.steps import StepInput
from mesh.model.capacity import compute_memory
from mesh.model.config import LayerSpan, load_config
from mesh.model.files import resolve_model_folder
from mesh.p2p.config import HostConfig
from mesh.routing.directory import Directory
from mesh.routing.features import Feature
from mesh.routing.heartbeat import (
    ServerInfo,
    ServerRole,
    ServerState,
    make_heartbeat_policy,
    seal_heartbeat,
)
from subnet.errors import ConfigError
from subnet.hosting import serving
from subnet.hosting.layer_choice import LayerChoice, choose_length, get_format
from subnet.hosting.manifest import build_own_manifest
from subnet.hosting.serving import LayerServer, LocalModel, SubnetModel
from subnet.operator.config import NodeConfig
from tests.support.calibrations import make_calibration
from tests.support.memory_network import MemoryNetwork

NETWORK = b"n" * 32
FOLDER = resolve_model_folder(str(shipped_model_path()))
MODEL = load_config(FOLDER.path)
BLOCKS = MODEL.num_layers
SCHEDULE = compute_schedule(100, MAINNET)
OWN = PeerKey(b"\1" * 32)
OTHERS = [PeerKey(bytes([number]) * 32) for number in range(2, 12)]
NOW_S = 1_700_000_010.0


class Policy:
    def __init__(self):
        self.admit = make_heartbeat_policy(
            NETWORK, is_member=lambda peer: True, clock=lambda: NOW_S
        )


def make_config(directory: Path, **changes) -> NodeConfig:
    values = {
        "model": str(FOLDER.path),
        "role": Role.HOSTER,
        "identity_path": directory / "peer_id.key",
        "new_swarm": True,
        "threads": 1,
        "attn_cache_tokens": 64,
    }
    return NodeConfig(**values | changes)


@dataclass
class Rig:
    """One hoster in a network of words: the others exist as heartbeats only."""

    server: LayerServer
    directory: Directory
    now_s: float = 0.0
    online: list[LayerRange] = field(default_factory=list)
    announced: list[tuple] = field(default_factory=list)
    beats: int = 0

    def hear(self, number: int, start: int, end: int, **changes) -> None:
        """Receive a heartbeat of another hoster."""
        self.beats += 1
        info = ServerInfo(
            role=ServerRole.HOSTER,
            state=ServerState.ONLINE,
            span=LayerSpan(start, end),
            throughput=1000,
            free_cache_tokens=64,
            dtype="float32",
            software="test",
            addresses=(),
        )
        envelope = seal_heartbeat(
            OTHERS[number],
            replace(info, **changes),
            network_id=NETWORK,
            node_id=number + 2,
            expires_at=int(NOW_S) // 30 * 30 + 60,
        )
        self.directory.add(envelope.to_bytes())

    def be_at(self, epoch: int, offset: int) -> None:
        self.server.note_position(
            EpochPosition(Epoch(epoch), offset, 100, BlockNumber(100 * epoch))
        )

    async def wait_until(self, is_true) -> None:
        async with asyncio.timeout(20):
            while not is_true():  # noqa: ASYNC110 - it is polled from outside
                await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Let the server think; everything that it awaits here answers at once."""
        for _ in range(50):
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def open_rig(directory: Path, *, quant_manifest: str = "none", measure=None, **changes):
    config = make_config(directory, **changes)
    manifest = build_own_manifest(
        FOLDER,
        MODEL,
        params=MAINNET,
        calibration=make_calibration(MODEL.num_layers),
        quant_type=quant_manifest,
    )
    host_config = HostConfig(key=OWN, network_id=NETWORK, record_policy=Policy())
    async with MemoryNetwork(clock=lambda: NOW_S).open(host_config) as host:
        heard = Directory(host, network_id=NETWORK, clock=lambda: NOW_S)
        options = {} if measure is None else {"measure": measure}
        choice = LayerChoice(
            config,
            MODEL,
            heard,
            own=OWN.peer_id,
            list_nodes=lambda: [key.peer_id for key in OTHERS[:-1]],
            **options,
        )
        rig = Rig.__new__(Rig)
        server = LayerServer(
            LocalModel(config, FOLDER, MODEL),
            SubnetModel(None if config.unpaid else manifest, MAINNET, SCHEDULE),
            host=host,
            directory=heard,
            choice=choice,
            announce=lambda: rig.announced.append((rig.server.state, rig.server.layers)),
            layers=config.layer_indices,
            clock=lambda: rig.now_s,
        )
        rig.__init__(server, heard)
        yield rig


@contextlib.asynccontextmanager
async def running(rig: Rig):
    """Run the server; its errors come out in a group."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(rig.server.run(lambda: rig.online.append(rig.server.layers)))
        yield
        task.cancel()


async def test_a_model_that_fits_is_served_whole(tmp_path):
    async with open_rig(tmp_path) as rig, running(rig):
        await rig.wait_until(lambda: rig.online)
        assert rig.online == [LayerRange(0, BLOCKS)]
        assert rig.server.throughput > 0
        assert rig.server.dtype == MODEL.stored_dtype
        assert rig.server.free_cache_tokens == 64
        # The library of grammars is installed here.
        assert set(rig.server.features) == set(Feature) - {Feature.RECEIPT}
        inference = rig.server.get_inference()
        assert inference is not None and inference.layers == LayerRange(0, BLOCKS)


async def test_the_choice_is_announced_before_the_layers_are_loaded(tmp_path):
    async with open_rig(tmp_path, num_layers=3) as rig, running(rig):
        await rig.wait_until(lambda: rig.online)
        states = [state for state, _ in rig.announced]
        assert states[0] is ServerState.JOINING and states[-1] is ServerState.ONLINE
        assert {layers for _, layers in rig.announced} == {LayerRange(0, 3)}


async def test_a_newcomer_takes_what_nobody_serves(tmp_path):
    async with open_rig(tmp_path, num_layers=2) as rig:
        rig.hear(0, 0, 3)
        rig.hear(1, 5, BLOCKS)
        async with running(rig):
            await rig.wait_until(lambda: rig.online)
            assert rig.online == [LayerRange(3, 5)]


async def test_hosters_whom_the_chain_does_not_know_change_no_choice(tmp_path):
    async with open_rig(tmp_path, num_layers=4) as rig:
        rig.hear(0, 0, 4)
        rig.hear(len(OTHERS) - 1, 4, 8, throughput=2**31)
        async with running(rig):
            await rig.wait_until(lambda: rig.online)
            assert rig.online == [LayerRange(4, 8)]


async def test_who_drains_is_leaving_and_who_loads_is_coming(tmp_path):
    async with open_rig(tmp_path, num_layers=4) as rig:
        rig.hear(0, 0, 4, state=ServerState.DRAINING)
        rig.hear(1, 4, 8, state=ServerState.JOINING, throughput=0)
        async with running(rig):
            await rig.wait_until(lambda: rig.online)
            assert rig.online == [LayerRange(0, 4)]


async def test_as_many_layers_as_fit(tmp_path):
    form = get_format(make_config(tmp_path), MODEL)
    room = compute_memory(MODEL, form, LayerSpan(0, BLOCKS), cache_tokens=64).total - 1
    config = make_config(tmp_path)
    assert choose_length(config, MODEL, measure=lambda device: room) == BLOCKS - 1
    assert choose_length(config, MODEL, measure=lambda device: room + 1) == BLOCKS
    with pytest.raises(ConfigError, match="not one block"):
        choose_length(config, MODEL, measure=lambda device: 1000)


def find_turn(rig: Rig, own: LayerRange, first: int = 0) -> int:
    """Return an epoch in which it is this node's turn to move."""
    from mesh.routing.placement import PlacedServer, draw_mover
    from subnet.hosting.layer_choice import list_placed

    span = LayerSpan(own.start, own.end)
    swarm = [*list_placed(rig.directory), PlacedServer(OWN.peer_id, span, 1000)]
    return next(e for e in range(first, 1000) if draw_mover(swarm, epoch=e) == OWN.peer_id)


@contextlib.asynccontextmanager
async def open_spare(directory: Path, **changes):
    """A hoster of 0:4 that another one could replace, while no hoster serves 4:8."""
    async with open_rig(directory, num_layers=4, **changes) as rig, running(rig):
        await rig.wait_until(lambda: rig.online)
        assert rig.online == [LayerRange(0, 4)]
        rig.hear(0, 0, 4)
        yield rig


async def test_a_spare_hoster_moves_to_the_gap_in_propose(tmp_path):
    async with open_spare(tmp_path) as rig:
        rig.now_s += serving.MIN_STAY_S
        rig.announced.clear()
        rig.be_at(find_turn(rig, LayerRange(0, 4)), 3)
        await rig.wait_until(lambda: len(rig.online) == 2)
        assert rig.online[-1] == LayerRange(4, 8)
        states = [state for state, _ in rig.announced]
        assert states[0] is ServerState.DRAINING and states[-1] is ServerState.ONLINE
        assert ServerState.JOINING in states
        inference = rig.server.get_inference()
        assert inference is not None and inference.layers == LayerRange(4, 8)


async def test_a_node_that_moves_holds_one_copy_of_weights(tmp_path, monkeypatch):
    """A device that just holds one range has no room for the next beside it."""
    loaded, alive = [], []
    load = serving.load_shard

    def load_and_count(*args, **options):
        gc.collect()
        alive.append(sum(tensor() is not None for tensor in loaded))
        shard = load(*args, **options)
        loaded.append(weakref.ref(shard.layers[0].mlp_norm))
        return shard

    monkeypatch.setattr(serving, "load_shard", load_and_count)
    async with open_spare(tmp_path) as rig:
        rig.now_s += serving.MIN_STAY_S
        rig.be_at(find_turn(rig, LayerRange(0, 4)), 3)
        await rig.wait_until(lambda: len(rig.online) == 2)
    assert alive == [0, 0]


@pytest.mark.parametrize("offset", [SCHEDULE.commit_start, SCHEDULE.reveal_start, 99])
async def test_nothing_moves_between_commit_and_reveal_or_after(tmp_path, offset):
    async with open_spare(tmp_path) as rig:
        rig.now_s += serving.MIN_STAY_S
        rig.be_at(find_turn(rig, LayerRange(0, 4)), offset)
        await rig.settle()
        assert len(rig.online) == 1 and rig.server.state is ServerState.ONLINE


async def test_a_range_is_kept_for_a_while(tmp_path):
    async with open_spare(tmp_path) as rig:
        rig.now_s += serving.MIN_STAY_S - 1
        turn = find_turn(rig, LayerRange(0, 4))
        rig.be_at(turn, 3)
        await rig.settle()
        assert len(rig.online) == 1
        rig.now_s += 1
        rig.be_at(find_turn(rig, LayerRange(0, 4), turn + 1), 3)
        await rig.wait_until(lambda: len(rig.online) == 2)


async def test_the_only_hoster_of_a_layer_stays(tmp_path):
    async with open_rig(tmp_path, num_layers=4) as rig, running(rig):
        await rig.wait_until(lambda: rig.online)
        rig.hear(0, 0, 3)
        rig.now_s += serving.MIN_STAY_S
        for epoch in range(20):
            rig.be_at(epoch, 3)
            await asyncio.sleep(0.002)
        assert rig.online == [LayerRange(0, 4)]


async def test_a_range_that_the_operator_named_never_moves(tmp_path):
    async with open_rig(tmp_path, layer_indices=LayerRange(0, 4)) as rig, running(rig):
        await rig.wait_until(lambda: rig.online)
        rig.hear(0, 0, 4)
        rig.now_s += serving.MIN_STAY_S
        rig.be_at(find_turn(rig, LayerRange(0, 4)), 3)
        await rig.settle()
        assert rig.online == [LayerRange(0, 4)]


async def test_open_sessions_are_not_cut_by_a_move(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "MOVE_DRAIN_S", 0.3)
    async with open_spare(tmp_path) as rig:
        engine = rig.server._engine
        assert engine is not None
        rig.now_s += serving.MIN_STAY_S
        turn = find_turn(rig, LayerRange(0, 4))
        with engine.admit(LayerSpan(0, 4), capacity=8, account=OWN_ACCOUNT):
            rig.announced.clear()
            rig.be_at(turn, 3)
            await rig.wait_until(lambda: len(rig.announced) >= 2)
            assert [state for state, _ in rig.announced] == [
                ServerState.DRAINING,
                ServerState.ONLINE,
            ]
            assert rig.online == [LayerRange(0, 4)]
        rig.be_at(find_turn(rig, LayerRange(0, 4), turn + 1), 3)
        await rig.wait_until(lambda: len(rig.online) == 2)


async def test_a_drain_that_outlasts_propose_calls_the_move_off(tmp_path, monkeypatch):
    """Once COMMIT has begun, an answer for the old range may be under way."""
    async with open_spare(tmp_path) as rig:
        engine = rig.server._engine
        assert engine is not None
        rig.now_s += serving.MIN_STAY_S
        turn = find_turn(rig, LayerRange(0, 4))
        with engine.admit(LayerSpan(0, 4), capacity=8, account=OWN_ACCOUNT):
            rig.be_at(turn, 3)
            await rig.wait_until(lambda: rig.server.state is ServerState.DRAINING)
            rig.be_at(turn, SCHEDULE.commit_start)
        await rig.wait_until(lambda: rig.server.state is ServerState.ONLINE)
        assert rig.online == [LayerRange(0, 4)]
        assert rig.server.get_inference() is not None


def find_mismatch(group: BaseExceptionGroup) -> ManifestMismatch:
    matching = group.subgroup(ManifestMismatch)
    assert matching is not None
    error: BaseException = matching
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ManifestMismatch)
    return error


async def run_to_failure(rig: Rig) -> ManifestMismatch:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(rig):
            await rig.wait_until(lambda: rig.online)
    return find_mismatch(caught.value)


@pytest.mark.parametrize("kind", ["int8", "int4"])
async def test_quantised_weights_on_a_subnet_of_plain_ones_refuse_to_start(tmp_path, kind):
    async with open_rig(tmp_path, quant_type=kind) as rig:
        error = await run_to_failure(rig)
    assert f"quantisation: the manifest has none, this node {kind}" in str(error)


@pytest.mark.parametrize("kind", ["int8", "int4"])
async def test_quantised_weights_are_served_and_announced_under_their_manifest(tmp_path, kind):
    async with open_rig(tmp_path, quant_type=kind, quant_manifest=kind) as rig, running(rig):
        await rig.wait_until(lambda: rig.online)
        assert rig.server.dtype == kind


@pytest.mark.parametrize("kind", ["int8", "int4"])
async def test_plain_weights_under_a_quantised_manifest_refuse_to_start(tmp_path, kind):
    async with open_rig(tmp_path, quant_manifest=kind) as rig:
        await run_to_failure(rig)


async def test_without_pay_other_values_may_be_served(tmp_path):
    async with open_rig(tmp_path, quant_type="int8", unpaid=True) as rig, running(rig):
        await rig.wait_until(lambda: rig.online)
        assert rig.server.dtype == "int8"


async def test_the_operators_rank_and_the_members_reach_the_sessions(tmp_path, monkeypatch):
    made = []

    class Sessions(serving.SessionServer):
        def __init__(self, *arguments, **options):
            made.append(options["accounts"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(serving, "SessionServer", Sessions)
    async with open_rig(tmp_path, num_layers=2) as rig:

        def rank(caller):
            return 7

        rig.server._rank = rank
        rig.server._is_member = lambda peer: peer == OWN.peer_id
        async with running(rig):
            await rig.wait_until(lambda: rig.online)
    (accounts,) = made
    stranger = OTHERS[0].peer_id
    assert accounts.find(stranger, is_first=True) == Account(stranger, False, 7)
    assert accounts.find(stranger, is_first=False) == Account(stranger, False)
    assert accounts.find(OWN.peer_id, is_first=False) == Account(None)


async def test_a_node_that_is_stopped_while_weights_load_does_not_wait_for_them(
    tmp_path, monkeypatch
):
    has_begun = threading.Event()

    def load_for_ever(*_args, check_wanted, **_options):
        has_begun.set()
        while True:
            check_wanted()
            threading.Event().wait(0.001)

    monkeypatch.setattr(serving, "load_shard", load_for_ever)
    local = LocalModel(make_config(tmp_path, unpaid=True), FOLDER, MODEL)
    served = SubnetModel(None, MAINNET, SCHEDULE)

    async def serve():
        async with serving.open_engine(local, served, LayerRange(0, BLOCKS)):
            raise AssertionError("nothing was loaded")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        serve_task = tasks.create_task(serve())
        await asyncio.to_thread(has_begun.wait)
        serve_task.cancel()


@pytest.mark.parametrize("unpaid", [False, True])
async def test_a_machine_with_inexact_arithmetic_goes_online_only_without_pay(
    tmp_path, monkeypatch, unpaid
):
    def refuse(*_):
        raise InexactArithmetic("a block computed in float32 is off")

    monkeypatch.setattr(serving, "check_float32", refuse)
    async with open_rig(tmp_path, unpaid=unpaid) as rig:
        if unpaid:
            async with running(rig):
                await rig.wait_until(lambda: rig.online)
            return
        with pytest.raises(BaseExceptionGroup) as caught:
            async with running(rig):
                await rig.wait_until(lambda: rig.online)
        assert caught.value.subgroup(InexactArithmetic) is not None
        assert rig.online == []


@pytest.mark.parametrize(
    ("torch_dtype", "hop_dtype", "row_size"),
    [("float32", "auto", 4), ("float32", "bfloat16", 2), ("bfloat16", "auto", 2)],
)
async def test_hidden_states_leave_as_computed_unless_the_operator_narrows_float32(
    tmp_path, torch_dtype, hop_dtype, row_size
):
    config = make_config(tmp_path, unpaid=True, torch_dtype=torch_dtype, hop_dtype=hop_dtype)
    served = SubnetModel(None, MAINNET, SCHEDULE)
    layers = LayerRange(0, BLOCKS - 1)
    async with serving.open_engine(LocalModel(config, FOLDER, MODEL), served, layers) as engine:
        serve_task = asyncio.get_running_loop().create_task(engine.serve())
        with engine.admit(
            LayerSpan(layers.start, layers.end), capacity=1, account=OWN_ACCOUNT
        ) as session:
            output = await engine.submit(session, StepInput(1, token_ids=(1,)))
        serve_task.cancel()
    assert len(output.hidden.data) == row_size * MODEL.hidden_size


async def test_a_model_of_16_bits_has_nothing_to_narrow(tmp_path):
    config = make_config(tmp_path, unpaid=True, torch_dtype="bfloat16", hop_dtype="float16")
    served = SubnetModel(None, MAINNET, SCHEDULE)
    with pytest.raises(ConfigError, match="--hop-dtype"):
        async with serving.open_engine(
            LocalModel(config, FOLDER, MODEL), served, LayerRange(0, BLOCKS)
        ):
            raise AssertionError("it may not serve")
