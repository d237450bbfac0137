"""Operators choose whom they serve; the swarm itself stays reachable."""

from __future__ import annotations

import sys
import textwrap

import pytest

from keys.peer import PeerKey
from mesh.errors import PeerRefusal
from mesh.p2p.config import HostConfig
from mesh.routing.directory import DIRECTORY_METHOD
from mesh.routing.info import INFO_METHOD
from subnet.errors import ConfigError
from subnet.operator import access
from subnet.operator.access import AccessGate, load_peer_list, load_priority, make_safe_rank
from tests.support.memory_network import MemoryNetwork

KEYS = [PeerKey(bytes([number]) * 32) for number in range(1, 6)]
FRIEND, STRANGER, MEMBER, OTHER, SERVER = (key.peer_id for key in KEYS)
METHOD = "mesh.session"


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def make_gate(allow=None, deny=None):
    return AccessGate(allow, deny, is_member=lambda peer: peer == MEMBER)


def test_without_lists_everybody_is_served():
    make_gate().check(STRANGER, METHOD)


def test_an_allow_list_serves_only_whom_it_names(tmp_path):
    allow = write(tmp_path / "allow", "# friends", f"  {FRIEND}  # the first", "")
    gate = make_gate(allow)
    gate.check(FRIEND, METHOD)
    with pytest.raises(PeerRefusal) as caught:
        gate.check(STRANGER, METHOD)
    assert caught.value.reason == "not-admitted"


def test_a_deny_list_refuses_whom_it_names_even_if_allowed(tmp_path):
    deny = write(tmp_path / "deny", str(STRANGER))
    make_gate(deny=deny).check(FRIEND, METHOD)
    both = make_gate(write(tmp_path / "allow", str(STRANGER), str(FRIEND)), deny)
    both.check(FRIEND, METHOD)
    with pytest.raises(PeerRefusal):
        both.check(STRANGER, METHOD)


def test_nodes_of_the_subnet_and_the_directory_stay_reachable(tmp_path):
    gate = make_gate(write(tmp_path / "allow"), write(tmp_path / "deny", str(MEMBER)))
    gate.check(MEMBER, METHOD)
    for method in (INFO_METHOD, DIRECTORY_METHOD):
        gate.check(STRANGER, method)
    with pytest.raises(PeerRefusal):
        gate.check(STRANGER, METHOD)


def test_lists_are_read_again_and_a_broken_one_changes_nothing(tmp_path):
    deny = write(tmp_path / "deny", str(STRANGER))
    gate = make_gate(deny=deny)
    write(deny, str(FRIEND))
    gate.reload()
    gate.check(STRANGER, METHOD)
    for broken in (["not a peer id"], [str(STRANGER)[:-1]]):
        write(deny, *broken)
        gate.reload()
        gate.check(STRANGER, METHOD)
        with pytest.raises(PeerRefusal):
            gate.check(FRIEND, METHOD)


def test_a_broken_list_is_named_with_its_line(tmp_path, monkeypatch):
    path = write(tmp_path / "list", str(FRIEND), "", "garbage")
    with pytest.raises(ConfigError, match=r"list:3: 'garbage' is not a peer id"):
        load_peer_list(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_peer_list(tmp_path / "absent")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_peer_list(tmp_path / "binary")
    monkeypatch.setattr(access, "MAX_LIST_BYTES", 8)
    with pytest.raises(ConfigError, match="too long"):
        load_peer_list(path)


async def test_a_refused_caller_reaches_no_handler(tmp_path):
    """Through the real RPC: the refusal is typed, and comes before the handler."""
    network, network_id = MemoryNetwork(), b"n" * 32
    reached = []

    async def answer(caller, payload):
        reached.append(caller)
        return b"answer"

    async def stream(opened):
        reached.append(opened.peer_id)

    gate = make_gate(deny=write(tmp_path / "deny", str(STRANGER)))
    server = HostConfig(key=KEYS[4], network_id=network_id, admission=gate.check)
    friend = HostConfig(key=KEYS[0], network_id=network_id)
    stranger = HostConfig(key=KEYS[1], network_id=network_id)
    async with (
        network.open(server) as host,
        network.open(friend) as one,
        network.open(stranger) as two,
    ):
        host.serve_unary("ask", answer, max_request_size=16)
        host.serve_unary(INFO_METHOD, answer, max_request_size=0, any_network=True)
        host.serve_stream(METHOD, stream)
        assert await one.call(SERVER, "ask", b"", timeout_s=5) == b"answer"
        assert await two.call(SERVER, INFO_METHOD, b"", timeout_s=5) == b"answer"
        reached.clear()
        with pytest.raises(PeerRefusal) as caught:
            await two.call(SERVER, "ask", b"", timeout_s=5)
        assert caught.value.reason == "not-admitted"
        with pytest.raises(PeerRefusal):
            await two.open_stream(SERVER, METHOD, timeout_s=5)
        assert reached == []


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module as an operator would write it, and an installed package with an entry point."""
    (tmp_path / "my_callers.py").write_text(
        textwrap.dedent(f"""
        def rank(caller):
            return 10 if str(caller) == "{FRIEND}" else -1

        number = 5
        """)
    )
    package = tmp_path / "my_callers-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: my-callers\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[mesh.priority]\nfriends = my_callers:rank\nbroken = my_callers:absent\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_callers", None)


@pytest.mark.parametrize("name", ["my_callers:rank", "friends"])
def test_a_priority_function_ranks_callers(plugin, name):
    rank = load_priority(name)
    assert (rank(FRIEND), rank(STRANGER)) == (10, -1)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my_callers:absent", "cannot be imported"),
        ("no_such_module:rank", "cannot be imported"),
        (":rank", "cannot be imported"),
        ("my_callers:number", "not a function"),
        ("nobody", "no entry point 'nobody' in mesh.priority"),
        ("broken", "cannot be loaded"),
    ],
)
def test_a_priority_that_cannot_be_found_is_said_at_the_start(plugin, name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_priority(name)


def test_a_failing_priority_function_harms_nobody():
    def fail(caller):
        raise RuntimeError("a bug of the operator's")

    assert make_safe_rank(fail, "fail")(FRIEND) == 0
    assert make_safe_rank(lambda caller: "high", "text")(FRIEND) == 0
    assert make_safe_rank(lambda caller: 10**30, "huge")(FRIEND) == access.MAX_PRIORITY
    assert make_safe_rank(lambda caller: -(10**30), "tiny")(FRIEND) == -access.MAX_PRIORITY
