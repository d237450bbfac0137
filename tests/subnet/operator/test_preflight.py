"""What is wrong with a node's inputs is said in the promised order, and nothing is half started."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from consensus.types import LayerRange, Role, SubnetId, SubnetNodeId
from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain
from keys.account import derive_development_account
from keys.errors import (
    IdentityFileFormat,
    IdentityFileMissing,
    IdentityFileMode,
    KeystoreError,
    KeystoreMissing,
    KeystoreMode,
    WrongPassword,
)
from keys.identity_file import create_identity_file
from keys.keystore import create_keystore
from keys.peer import PeerId
from keys.secret_file import create_secret_file
from mesh.errors import (
    DeviceUnavailable,
    LayerRangeOutsideModel,
    ModelError,
    ModelFilesMissing,
    UnknownArchitecture,
)
from subnet.account.registration import NodeRegistration
from subnet.errors import ChainUnavailable, ConfigError, NotRegistered, UnknownSubnet
from subnet.operator.config import NodeConfig
from subnet.operator.preflight import LIGHT_NOTICE, NO_HOTKEY_NOTICE, UNPAID_NOTICE, prepare
from tests.support.chain_rigs import COLDKEYS, OWNER, WireRig, make_subnet

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOTKEYS = tuple(derive_development_account(index) for index in range(50, 54))
PASSWORD = "correct horse"
NUM_BLOCKS = 4
MODEL_FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": NUM_BLOCKS,
    "vocab_size": 128,
    "max_position_embeddings": 128,
}
HEAVY = ["torch", "hivemind", "transformers", "substrateinterface", "fastapi"]


@dataclass(frozen=True)
class Place:
    """A chain with three nodes in two subnets, and the files of a node whose inputs hold.

    ``bare_subnet`` names no manifest; ``twin`` is a peer that both subnets know.
    """

    url: str
    subnet: SubnetId
    bare_subnet: SubnetId
    node: SubnetNodeId
    other_node: SubnetNodeId
    directory: Path
    twin: Path

    def file(self, name: str) -> Path:
        return self.directory / name


async def _register(rig: WireRig, subnet: SubnetId, index: int, peer: PeerId) -> SubnetNodeId:
    wanted = NodeRegistration(subnet_id=subnet, hotkey=HOTKEYS[index].account_id, peer_id=peer)
    return await rig.register_node(wanted, COLDKEYS[index])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    directory = tmp_path_factory.mktemp("node")
    twin = directory / "twin.key"
    peers = [create_identity_file(directory / name) for name in ("peer_id.key", "other.key")]
    twin_peer = create_identity_file(twin)
    _write_node_files(directory)
    config = DevChainConfig(mode=BlockMode.INSTANT, seed=b"preflight")
    async with DevChain.open(config) as devchain, WireRig.connect(devchain.url) as rig:
        subnet = await rig.register_subnet(make_subnet("preflight"), OWNER)
        bare = await rig.register_subnet(make_subnet("bare", misc="no manifest"), OWNER)
        node = await _register(rig, subnet, 0, peers[0])
        other_node = await _register(rig, subnet, 1, peers[1])
        await _register(rig, subnet, 2, twin_peer)
        await _register(rig, bare, 3, twin_peer)
        yield Place(devchain.url, subnet, bare, node, other_node, directory, twin)


def _write_node_files(directory: Path) -> None:
    for name, index in (("hotkey.json", 0), ("other-hotkey.json", 1)):
        create_keystore(directory / name, HOTKEYS[index], PASSWORD, work_factor=1 << 4)
    create_secret_file(directory / "password", f"{PASSWORD}\n".encode())
    create_secret_file(directory / "a file", b"not a folder")
    (directory / "loose password").write_text(PASSWORD + "\n")
    (directory / "loose password").chmod(0o640)
    loose = directory / "loose.key"
    create_identity_file(loose)
    loose.chmod(0o644)
    (directory / "loose.json").write_bytes((directory / "hotkey.json").read_bytes())
    (directory / "loose.json").chmod(0o640)
    for name, fields in (
        ("model", MODEL_FIELDS),
        ("gpt2", MODEL_FIELDS | {"architectures": ["GPT2LMHeadModel"]}),
        ("broken", {"architectures": ["LlamaForCausalLM"]}),
    ):
        (directory / name).mkdir()
        (directory / name / "config.json").write_text(json.dumps(fields))
        (directory / name / "model.safetensors").write_bytes(b"")
    (directory / "weightless").mkdir()
    (directory / "weightless" / "config.json").write_text(json.dumps(MODEL_FIELDS))
    (directory / "empty").mkdir()
    secret = directory / "rsa.key"
    secret.write_bytes(bytes(68))
    secret.chmod(0o600)
    garbage = directory / "garbage.json"
    garbage.write_text("{}")
    garbage.chmod(0o600)


@pytest.fixture(scope="module")
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def make_values(place: Place) -> dict[str, Any]:
    """Return the inputs of a hoster with nothing wrong."""
    return {
        "model": str(place.file("model")),
        "role": Role.HOSTER,
        "identity_path": place.file("peer_id.key"),
        "hotkey_path": place.file("hotkey.json"),
        "hotkey_password_file": place.file("password"),
        "chain_url": place.url,
        "subnet": str(place.subnet),
        "subnet_node_id": int(place.node),
        "host_maddrs": ("/ip4/127.0.0.1/tcp/0",),
        "new_swarm": True,
        "layer_indices": LayerRange(0, NUM_BLOCKS),
        "data_dir": place.file("data"),
    }


Change = Callable[[Place, int], dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    """One wrong input: what to change in good ones, and what must be said. In order of checks."""

    name: str
    change: Change
    error: type[Exception]
    sentence: str


def _files(**names: str) -> Change:
    return lambda place, _: {field: place.file(name) for field, name in names.items()}


def _values(**values: Any) -> Change:
    return lambda *_: values


FAULTS = (
    Fault("no identity", _files(identity_path="gone.key"), IdentityFileMissing, "gone.key"),
    Fault("folder as identity", _files(identity_path="model"), IdentityFileMissing, "model"),
    Fault("identity format", _files(identity_path="rsa.key"), IdentityFileFormat, "libp2p format"),
    Fault("loose identity", _files(identity_path="loose.key"), IdentityFileMode, "chmod 600"),
    Fault("no keystore", _files(hotkey_path="gone.json"), KeystoreMissing, "gone.json"),
    Fault("loose keystore", _files(hotkey_path="loose.json"), KeystoreMode, "chmod 600"),
    Fault("no v3 keystore", _files(hotkey_path="garbage.json"), KeystoreError, "version 3"),
    Fault("no password", _files(hotkey_password_file="gone"), ConfigError, "password file"),
    Fault(
        "loose password",
        _files(hotkey_password_file="loose password"),
        ConfigError,
        "open to others than its owner",
    ),
    Fault("wrong password", _files(hotkey_password_file="a file"), WrongPassword, "does not open"),
    Fault("file as data folder", _files(data_dir="a file"), ConfigError, "cannot be written"),
    Fault("data below a file", _files(data_dir="a file/data"), ConfigError, "cannot be written"),
    Fault(
        "port in use",
        lambda _, port: {"host_maddrs": (f"/ip4/127.0.0.1/tcp/{port}",)},
        ConfigError,
        "is in use",
    ),
    Fault(
        "foreign address", _values(host_maddrs=("/ip4/192.0.2.1/tcp/31330",)), ConfigError, "cannot"
    ),
    Fault("no such GPU", _values(device="cuda:63"), DeviceUnavailable, "cuda:63 cannot be used"),
    Fault("no chain", _values(chain_url="ws://127.0.0.1:1"), ChainUnavailable, "does not answer"),
    Fault("no such subnet", _values(subnet="4000000"), UnknownSubnet, "no subnet 4000000"),
    Fault("no such node", _values(subnet_node_id=99), NotRegistered, "node 99 is not registered"),
    Fault(
        "another's node",
        lambda place, _: {"subnet_node_id": int(place.other_node)},
        NotRegistered,
        "is registered to peer",
    ),
    Fault(
        "unregistered peer",
        lambda place, _: {"subnet": str(place.bare_subnet), "subnet_node_id": None},
        NotRegistered,
        "no node with peer id",
    ),
    Fault(
        "no manifest",
        lambda place, _: {
            "identity_path": place.twin,
            "hotkey_path": None,
            "subnet": str(place.bare_subnet),
            "subnet_node_id": None,
        },
        ConfigError,
        "names no model manifest",
    ),
    Fault("another's hotkey", _files(hotkey_path="other-hotkey.json"), NotRegistered, "hotkey"),
    Fault("no model", _values(model="/nonexistent/model"), ModelFilesMissing, "not a folder"),
    Fault(
        "folder without a model",
        lambda place, _: {"model": str(place.file("empty"))},
        ModelFilesMissing,
        "no config.json",
    ),
    Fault(
        "model without weights",
        lambda place, _: {"model": str(place.file("weightless"))},
        ModelFilesMissing,
        "no *.safetensors weights",
    ),
    Fault(
        "architecture",
        lambda place, _: {"model": str(place.file("gpt2"))},
        UnknownArchitecture,
        "GPT2LMHeadModel",
    ),
    Fault(
        "broken config",
        lambda place, _: {"model": str(place.file("broken"))},
        ModelError,
        "num_attention_heads",
    ),
    Fault(
        "blocks outside",
        _values(layer_indices=LayerRange(2, NUM_BLOCKS + 1)),
        LayerRangeOutsideModel,
        "2:5",
    ),
)
STAGES = (
    "loose identity",
    "no keystore",
    "file as data folder",
    "port in use",
    "no such GPU",
    "no chain",
    "another's node",
    "no model",
    "blocks outside",
)
"""One fault of each stage; none hides another."""


def assert_nothing_started(place: Place) -> None:
    assert not place.file("data").exists()
    names = [child.name() for child in psutil.Process().children(recursive=True)]
    assert not [name for name in names if "p2pd" in name]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_each_wrong_input_is_named(fault: Fault, place: Place, busy_port: int) -> None:
    values = make_values(place) | fault.change(place, busy_port)
    with pytest.raises(fault.error) as caught:
        await prepare(NodeConfig(**values))
    sentence = str(caught.value)
    assert fault.sentence in sentence and "\n" not in sentence
    assert PASSWORD not in sentence
    assert_nothing_started(place)


@pytest.mark.parametrize("stage", range(len(STAGES)), ids=STAGES)
async def test_of_several_wrong_inputs_the_first_in_order_is_named(
    stage: int, place: Place, busy_port: int
) -> None:
    by_name = {fault.name: fault for fault in FAULTS}
    values = make_values(place)
    for name in STAGES[stage:]:
        values |= by_name[name].change(place, busy_port)
    expected = by_name[STAGES[stage]]
    with pytest.raises(expected.error) as caught:
        await prepare(NodeConfig(**values))
    assert expected.sentence in str(caught.value)
    assert_nothing_started(place)


async def test_right_inputs_pass_and_nothing_is_written_yet(place: Place) -> None:
    prepared = await prepare(NodeConfig(**make_values(place)))
    assert (prepared.subnet_id, prepared.node_id) == (place.subnet, place.node)
    assert prepared.hotkey is not None
    assert prepared.hotkey.account_id == HOTKEYS[0].account_id
    assert prepared.layers == LayerRange(0, NUM_BLOCKS)
    assert prepared.data_dir == place.file("data") / f"{place.subnet}-{place.node}"
    assert prepared.notices == ()
    assert_nothing_started(place)


async def test_absent_ids_are_looked_up_by_peer_id(place: Place) -> None:
    values = make_values(place) | {"subnet": None, "subnet_node_id": None}
    prepared = await prepare(NodeConfig(**values))
    assert (prepared.subnet_id, prepared.node_id) == (place.subnet, place.node)


async def test_a_friendly_subnet_id_is_the_same_subnet(place: Place) -> None:
    prepared = await prepare(NodeConfig(**make_values(place) | {"subnet": "1"}))
    assert prepared.subnet_id == place.subnet


async def test_a_peer_of_two_subnets_has_to_say_which(place: Place) -> None:
    changes = {"identity_path": place.twin, "subnet": None, "subnet_node_id": None}
    with pytest.raises(ConfigError, match="several subnets") as caught:
        await prepare(NodeConfig(**make_values(place) | changes))
    assert caught.value.hint == "give --subnet"


async def test_without_a_hotkey_the_node_says_what_it_will_not_do(place: Place) -> None:
    changes = {"hotkey_path": None, "hotkey_password_file": None}
    prepared = await prepare(NodeConfig(**make_values(place) | changes))
    assert prepared.hotkey is None
    assert prepared.notices == (NO_HOTKEY_NOTICE,)
    assert "neither proposes nor attests" in NO_HOTKEY_NOTICE


async def test_a_validator_needs_no_layers_and_says_what_it_will_read(place: Place) -> None:
    changes = {"role": Role.VALIDATOR, "layer_indices": None}
    prepared = await prepare(NodeConfig(**make_values(place) | changes))
    assert prepared.layers is None
    (notice,) = prepared.notices
    assert f"reads 1 of the model's {NUM_BLOCKS} blocks, or its head, from" in notice
    assert "--light leaves that out" in notice


async def test_a_validator_without_weights_is_told_of_light_and_starts_with_it(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODEL_FIELDS))
    changes = {"role": Role.VALIDATOR, "layer_indices": None, "model": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"has no \*.safetensors weights") as refusal:
        await prepare(NodeConfig(**make_values(place) | changes))
    assert "--light" in refusal.value.hint
    prepared = await prepare(NodeConfig(**make_values(place) | changes | {"light": True}))
    assert prepared.notices == (LIGHT_NOTICE,)


RUN_AND_LIST_IMPORTS = (
    "import sys\n"
    "from subnet.cli.mesh_test import main\n"
    "sys.argv[0] = 'mesh-test'\n"
    "try:\n"
    "    main()\n"
    "finally:\n"
    f"    print(*sorted(set({HEAVY!r}) & set(sys.modules)))\n"
)


def run_command(values: dict[str, Any], *extra: str) -> tuple[int, str, str]:
    """Run mesh-test with these inputs; return its exit code, what it imported, and its stderr."""
    line = [values["model"], "--new_swarm", "--hoster", *extra]
    for field, option in (
        ("identity_path", "--identity_path"),
        ("hotkey_path", "--hotkey_path"),
        ("hotkey_password_file", "--hotkey_password_file"),
        ("chain_url", "--chain"),
        ("subnet", "--subnet_id"),
        ("subnet_node_id", "--subnet_node_id"),
        ("layer_indices", "--block_indices"),
        ("data_dir", "--data_dir"),
    ):
        line += [option, str(values[field])]
    line += ["--host_maddrs", *values["host_maddrs"]]
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST_IMPORTS, *line],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("stage", "imported"),
    [
        ("loose identity", ""),
        ("no chain", "substrateinterface"),
        ("blocks outside", "substrateinterface"),
    ],
)
async def test_the_command_ends_with_one_sentence_one_fix_and_nothing_heavy(
    stage: str, imported: str, place: Place, busy_port: int
) -> None:
    by_name = {fault.name: fault for fault in FAULTS}
    values = make_values(place)
    for name in STAGES[STAGES.index(stage) :]:
        values |= by_name[name].change(place, busy_port)
    code, modules, err = await asyncio.to_thread(run_command, values)
    assert (code, modules) == (1, imported), err
    first, second, *rest = err.splitlines()
    assert first.startswith("error: ") and by_name[stage].sentence in first
    assert second.startswith("hint: ") and len(second) > len("hint: ") and not rest
    assert_nothing_started(place)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (("--validator",), "exactly one of --hoster and --validator"),
        (("--initial_peers", "/ip4/127.0.0.1/tcp/1"), "exclude each other"),
        (("--announce_maddrs", "1.2.3.4:31330"), "not a multiaddress"),
        (("--no-such-option",), "no-such-option"),
    ],
)
async def test_a_usage_error_comes_before_every_other_and_exits_with_two(
    extra: tuple[str, ...], sentence: str, place: Place, busy_port: int
) -> None:
    values = make_values(place)
    for fault in FAULTS:
        if fault.name in STAGES:
            values |= fault.change(place, busy_port)
    code, modules, err = await asyncio.to_thread(run_command, values, *extra)
    assert (code, modules) == (2, ""), err
    assert sentence in err and "Traceback" not in err
    assert_nothing_started(place)


@pytest.mark.parametrize("num_layers", [None, NUM_BLOCKS - 1])
async def test_a_hoster_without_a_range_chooses_it_when_it_knows_the_swarm(
    num_layers: int | None, place: Place
) -> None:
    changes = {"layer_indices": None, "num_layers": num_layers}
    prepared = await prepare(NodeConfig(**make_values(place) | changes))
    assert prepared.layers is None


async def test_more_layers_than_the_model_has_are_refused_before_anything_runs(
    place: Place,
) -> None:
    changes = {"layer_indices": None, "num_layers": NUM_BLOCKS + 1}
    with pytest.raises(LayerRangeOutsideModel):
        await prepare(NodeConfig(**make_values(place) | changes))


async def test_a_broken_peer_list_or_priority_is_said_before_the_chain_is_asked(
    place: Place,
) -> None:
    nowhere = {"chain_url": "ws://127.0.0.1:9"}
    for changes in ({"allow_file": place.file("model")}, {"priority": "no_such_module:rank"}):
        with pytest.raises(ConfigError):
            await prepare(NodeConfig(**make_values(place) | nowhere | changes))


async def test_without_pay_the_node_says_what_it_will_not_do(place: Place) -> None:
    prepared = await prepare(NodeConfig(**make_values(place) | {"unpaid": True}))
    assert prepared.notices == (UNPAID_NOTICE,)
