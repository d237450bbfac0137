"""Our network on the real runtime: registered, elected, proposed, attested, rewarded there."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from consensus.types import NodeClass
from keys.account import derive_development_account
from keys.secret_file import create_secret_file
from mesh.assets import default_question, shipped_model_path
from tests.support import chopsticks
from tests.support.block_driver import drive_blocks, skip_to_eve
from tests.support.commands import MESH, MESH_TEST, Command, run_command

# Two epochs and the one that proposes the second are sixty blocks of six seconds, after the
# set-up; a busy machine is slower.
RUN_S = 1500.0
EPOCHS = 2
COMMAND_S = 180.0
POLL_S = 5.0
PASSWORD = "correct horse"
SERVING = '"event": "serving"'
OPERATORS = ("alith", "baltathar", "charleth", "dorothy")
ROLES = ("hoster", "hoster", "hoster", "validator")

pytestmark = [pytest.mark.chain, pytest.mark.e2e, pytest.mark.timeout(RUN_S + 300)]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[str]:
    """A chain of its own from genesis: its blocks are driven, which other tests would notice."""
    missing = chopsticks.find_missing()
    if missing is not None:
        pytest.skip(missing)
    with chopsticks.run_chopsticks(tmp_path) as url:
        yield url


def test_a_local_network_on_the_real_runtime_scores_two_epochs(
    runtime: str, tmp_path: Path
) -> None:
    line = [*MESH, "localnet", "--chain", runtime, "--epochs", str(EPOCHS), "--json"]
    with run_command(line, tmp_path / "localnet") as command:
        code = command.wait(timeout_s=RUN_S)
        assert code == 0, command.stderr[-8000:]
        assert f"{default_question().answer}\n" in command.stderr
        rows = [json.loads(text) for text in command.stdout.splitlines()]
        command.wait_until_gone()
    assert [row["epoch"] - rows[0]["epoch"] for row in rows] == list(range(EPOCHS))
    for row in rows:
        nodes = row["hosters"] + row["validators"]
        assert len(nodes) == 6
        assert all(node["attested"] is True for node in nodes)
        assert row["attestation_ratio"] == 1.0
        assert all(int(hoster["score"]) > 0 for hoster in row["hosters"])
    assert all(int(node["score"]) > 0 for node in rows[1]["validators"])


class Operator:
    """Types command lines, and reads what they print as JSON."""

    def __init__(self, url: str, directory: Path) -> None:
        self._environment = {"MESH_CHAIN": url}
        self._directory = directory

    def type(self, *line: str) -> dict[str, Any]:
        found = self.try_to(*line)
        assert found is not None
        return found

    def try_to(self, *line: str) -> dict[str, Any] | None:
        """Return what the command printed; None if it failed, for which it had a sentence."""
        with run_command([*MESH, *line, "--json"], self._directory, self._environment) as command:
            if command.wait(timeout_s=COMMAND_S) != 0:
                assert command.stderr.startswith("error: "), command.stderr
                print(command.stderr)
                return None
            found = json.loads(command.stdout)
            assert isinstance(found, dict)
            return found

    def start_node(self, line: list[str], data_dir: Path) -> Command:
        environment = self._environment | {"MESH_HOME": str(data_dir)}
        return Command(line, self._directory, environment)


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def register_and_activate(operator: Operator, directory: Path, bootnode: str) -> list[list[str]]:
    """Go from a new chain to an active subnet; return the command lines of its four nodes."""
    with run_command([*MESH, "manifest", str(shipped_model_path())], directory) as manifest:
        assert manifest.wait(timeout_s=COMMAND_S) == 0, manifest.stderr
        digest = manifest.stdout.strip()
    peer = operator.type("keygen", "--dir", str(directory / OPERATORS[0]))["peer_id.key"]
    password = directory / "password"
    create_secret_file(password, PASSWORD.encode())
    line = ["chain", "register-subnet", "--name", "mesh", "--repo", "example.org/mesh"]
    line += ["--manifest-hash", digest, "--bootnode", f"{peer}={bootnode}"]
    for number in range(len(OPERATORS)):
        line += ["--initial-coldkey", f"{derive_development_account(number).address}=1"]
    signed = ["--dev-account", OPERATORS[0]]
    operator.type(*line, *signed)
    starts = []
    for name, role in zip(OPERATORS, ROLES, strict=True):
        line = ["chain", "onboard", "--subnet", "mesh", "--dir", str(directory / name)]
        line += ["--role", role, "--hotkey-password-file", str(password), "--dev-account", name]
        starts.append(operator.type(*line)["start"])
    operator.type("chain", "delegate", "--subnet", "mesh", "--amount", "50", *signed)
    operator.type("chain", "activate-subnet", "--subnet", "mesh", *signed)
    return starts


def wait_for(operator: Operator, *line: str, until: Any) -> dict[str, Any]:
    deadline = time.monotonic() + RUN_S
    while time.monotonic() < deadline:
        found = operator.try_to(*line)
        if found is not None and until(found):
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"{' '.join(line)} did not come to say what it should")


def test_from_genesis_to_rewards_through_commands_alone(runtime: str, tmp_path: Path) -> None:
    operator = Operator(runtime, tmp_path)
    port = find_port()
    starts = register_and_activate(operator, tmp_path, f"/ip4/127.0.0.1/tcp/{port}")
    shown = operator.type("chain", "show", "--subnet", "mesh")
    assert shown["subnet"]["state"] == "Active"
    assert [row["class"] for row in shown["nodes"]] == [NodeClass.VALIDATOR.name.capitalize()] * 4
    with ExitStack() as stack:
        nodes = []
        for number, line in enumerate(starts):
            assert line[:2] == ["mesh-test", "MODEL"]
            listening = f"/ip4/127.0.0.1/tcp/{0 if number else port}"
            line = [*MESH_TEST, str(shipped_model_path()), *line[2:], "--host_maddrs", listening]
            # The others find the first one on the chain, which names it as the bootnode.
            line += ["--threads", "1", *([] if number else ["--new_swarm"])]
            node = operator.start_node(line, tmp_path / OPERATORS[number] / "data")
            stack.callback(node.close)
            node.wait_for(SERVING, timeout_s=COMMAND_S)
            nodes.append(node)
        asyncio.run(skip_to_eve(runtime, slot=shown["subnet"]["slot"]))
        eve = operator.type("chain", "epoch", "--subnet", "mesh")["epoch"]
        # The scores of the first epoch that the nodes see whole are proposed in the next one.
        epoch = str(eve + 2)
        with drive_blocks(runtime, block_seconds=6.0):
            submission = wait_for(
                operator,
                *("chain", "submission", "--subnet", "mesh", "--epoch", epoch),
                until=lambda found: (
                    found["submission"] and len(found["submission"]["attested"]) == 4
                ),
            )["submission"]
            paid = wait_for(
                operator,
                *("chain", "rewards", "--subnet", "mesh", "--epoch", epoch),
                until=lambda found: True,
            )
        assert submission["attested"] == [1, 2, 3, 4]
        scores = {node_id: int(score) for node_id, score in submission["scores"]}
        assert all(scores[node_id] > 0 for node_id in (1, 2, 3))
        rewards = {node_id: int(amount) for node_id, amount in paid["nodes"]}
        assert paid["agreed"] is True
        assert all(rewards[node_id] > 0 for node_id in (1, 2, 3))
        for node_id in (1, 2, 3):
            seen = operator.type("chain", "node", "--subnet", "mesh", "--node", str(node_id))
            assert int(seen["stake"]) >= 100 * 10**18 + rewards[node_id]
            line = ["earnings", str(node_id), "--subnet", "mesh", "--epoch", str(eve + 1)]
            row = operator.type(*line, "--epochs", "1")["rows"][0]
            assert (row["difference"], int(row["paid"])) == ("0", rewards[node_id])
        for node in nodes:
            assert node.process.poll() is None, node.stderr[-4000:]
