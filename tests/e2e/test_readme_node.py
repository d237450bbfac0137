"""README's way to a paid node, line by line, until a hoster's stake has grown, and out again.

The command lines are those of the section "Run a node". Only what a reader replaces is replaced:
the parts in braces, the model by the one that comes along, ports that one machine cannot give
twice, and a typed password by a file. The chain makes a block for each extrinsic, and a block a
second once the nodes run, so that no activation window passes on a slow machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keys.secret_file import create_secret_file
from tests.support.block_driver import drive_blocks
from tests.support.commands import MESH, Command, find_free_port, run_command, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

README = Path(__file__).parents[2] / "README.md"
MODEL = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
SERVING = '"event": "serving"'
OPERATORS = 3
EPOCHS_S = 300.0
LOOK_EVERY_S = 5.0
"""To ask a chain takes a command a second of computing, and pay comes once an epoch."""


def read_steps() -> list[tuple[str, str]]:
    """Return who runs which line of "Run a node", in order: the lines of its code blocks.

    A line that is only a comment says who runs what follows it.
    """
    section = README.read_text().partition("\n## Run a node\n")[2].partition("\n## ")[0]
    steps, who = [], ""
    for block in re.findall(r"^```\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("# "):
                who = line.removeprefix("# ")
            elif line.strip():
                steps.append((who, re.sub(r"\s+# .*", "", line)))
    return steps


@dataclass
class Person:
    """An operator: a folder of its own, and what its commands have printed."""

    directory: Path
    environment: dict[str, str]
    port: int
    bootstrap_port: int
    values: dict[str, str] = field(default_factory=dict)

    def fill(self, line: str) -> str:
        """Put this person's values into the line."""
        line = line.replace(MODEL, "mesh-tiny")
        # A person types these passwords; the file stands in for the keyboard.
        line = re.sub(
            r"((?:accounts new|--key-file) \w+\.json)(?! --password-file)",
            rf"\1 --password-file {self.directory.parent / 'typed'}",
            line,
        )
        line = re.sub(r"3133[01]", str(self.port), line).replace("31329", str(self.bootstrap_port))
        line = re.sub(r"\{(\w+)\}", lambda found: self.values[found[1]], line)
        assert "{" not in line, f"nobody filled {line}"
        return line

    def run(self, line: str, *, timeout_s: float = 120.0) -> str:
        """Run a line in a shell in this person's folder; return what it printed."""
        done = subprocess.run(
            ["bash", "-euc", self.fill(line)],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        self._learn(line, done.stdout)
        return done.stdout

    def _learn(self, line: str, printed: str) -> None:
        """Keep what later lines need."""
        account = re.search(r"accounts new (\w+)\.json", line)
        if account is not None:
            self.values[f"{account[1].upper()}_ADDRESS"] = printed.split()[0]
        if line.startswith("mesh keygen"):
            self.values["BOOTSTRAP_PEER_ID"] = printed.splitlines()[1].split()[-1]
        for what, name in (("node", "SUBNET_NODE_ID"), ("subnet", "SUBNET_ID")):
            registered = re.match(rf"{what} (\d+) .*is registered", printed)
            if registered is not None:
                self.values[name] = registered[1]


@dataclass
class Subnet:
    """Three operators, of whom the first owns the subnet; ``steps`` are those still to be done."""

    url: str
    people: list[Person]
    steps: list[tuple[str, str]]

    @property
    def owner(self) -> Person:
        return self.people[0]

    def walk(self, last: str) -> None:
        """Do the steps up to the one that begins with ``last``. Operators work side by side."""
        is_done = False
        with ThreadPoolExecutor(len(self.people)) as pool:
            while not is_done:
                who, line = self.steps.pop(0)
                is_done = line.startswith(last)
                if who == "the owner":
                    self.owner.run(self._name_coldkeys(line))
                else:
                    assert who == "each operator", f"who runs {line}?"
                    list(pool.map(lambda person, line=line: person.run(line), self.people))
        for person in self.people:
            person.values["SUBNET_ID"] = self.owner.values.get("SUBNET_ID", "")

    def take(self, first: str) -> str:
        """Return the next step, which begins with ``first``."""
        _, line = self.steps.pop(0)
        assert line.startswith(first), line
        return line

    def _name_coldkeys(self, line: str) -> str:
        for person in self.people[1:]:
            line = line.replace("{…}", person.values.get("COLDKEY_ADDRESS", "{…}"), 1)
        return line


@pytest.fixture
def subnet(tmp_path: Path) -> Iterator[Subnet]:
    create_secret_file(tmp_path / "typed", b"correct horse\n")
    with run_command(
        [*MESH, "devchain", "--port", "0", "--block-mode", "instant"], tmp_path
    ) as chain:
        chain.wait_for("ws://")
        url = chain.stdout.strip()
        people, bootstrap_port = [], find_free_port()
        for number in range(1, OPERATORS + 1):
            directory = tmp_path / f"operator-{number}"
            directory.mkdir()
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            environment = os.environ | {
                "PATH": path,
                "MESH_CHAIN": url,
                "MESH_HOME": str(directory / "data"),
                "OMP_NUM_THREADS": "1",
            }
            port = find_free_port()
            values = {"IP": "127.0.0.1", "PORT": str(port), "PRIVATE_KEY_PATH": "keys/peer_id.key"}
            people.append(Person(directory, environment, port, bootstrap_port, values))
        yield Subnet(url, people, read_steps())


def start(stack: ExitStack, person: Person, line: str) -> Command:
    """Start a node by its line, in the person's folder."""
    shell = ["bash", "-euc", f"cd {person.directory} && exec {person.fill(line)}"]
    return stack.enter_context(run_command(shell, person.directory, person.environment))


def test_readme_s_way_to_a_paid_node_leads_there(subnet: Subnet) -> None:
    first, second, third = subnet.people
    subnet.walk("mesh chain transfer --to {HOTKEY_ADDRESS}")
    with drive_blocks(subnet.url, block_seconds=1.0), ExitStack() as stack:
        new_swarm = subnet.take("mesh-test")
        joining = subnet.take("mesh-test")
        node = start(stack, first, new_swarm)
        node.wait_for(SERVING)
        (line,) = [line for line in node.stderr.splitlines() if SERVING in line]
        address = json.loads(line)["addresses"][0]
        for person in subnet.people:
            person.values["ADDR"] = address
        nodes = [node]
        nodes.append(start(stack, second, joining.replace("--validator", "--hoster")))
        nodes.append(start(stack, third, joining))
        bootstrap = start(stack, first, subnet.take("mesh bootstrap"))
        for node in nodes:
            node.wait_for(SERVING)
        bootstrap.wait_for("/p2p/")
        subnet.walk("mesh chain show")

        rewards, show, generate = (subnet.take("mesh ") for _ in range(3))
        hosters = {int(person.values["SUBNET_NODE_ID"]): person for person in (first, second)}
        stakes: dict[int, list[int]] = {node_id: [] for node_id in hosters}

        def have_earned() -> bool:
            """Whether an epoch paid both hosters and the stake of both has grown."""
            ended = [node for node in nodes if node.process.poll() is not None]
            assert not ended, ended[0].stderr[-4000:]
            for node_id, person in hosters.items():
                shown = json.loads(person.run(f"{show} --json"))
                stakes[node_id].append(int(shown["stake"]))
            if not all(min(seen) < seen[-1] for seen in stakes.values()):
                return False
            paid = json.loads(second.run(f"{rewards} --json"))["nodes"]
            return set(hosters) <= {node_id for node_id, _ in paid}

        # A machine that is not registered, while the nodes earn.
        line = ["doctor", "mesh-tiny", "--dry-node", "--subnet", second.values["SUBNET_ID"]]
        options = ["--chain", subnet.url, "--epochs", "3", "--json"]
        dry = stack.enter_context(run_command([*MESH, *line, *options], third.directory))
        wait_until(have_earned, "pay for both hosters", timeout_s=EPOCHS_S, poll_s=LOOK_EVERY_S)
        assert second.run(generate).strip()
        # It exits 1 if anything keeps a node from earning.
        for person in (second, third):
            assert "PASS  records" in person.run("mesh doctor")
        assert dry.wait(timeout_s=EPOCHS_S) == 0, dry.stderr
        # In the first epoch the hosters may not have taken part yet.
        scored = json.loads(dry.stdout.splitlines()[-1])
        is_whole = int(scored["score"]) > 0 and scored["other_hosters"] and not scored["reason"]
        assert is_whole, (scored, dry.stderr)
        # The hoster that earned leaves with its stake, what it earned included.
        nodes[1].process.terminate()
        nodes[1].wait(timeout_s=EPOCHS_S)
        leave, coldkey = subnet.take("mesh chain leave"), second.values["COLDKEY_ADDRESS"]
        before = read_balance(second, coldkey)
        second.run(leave, timeout_s=EPOCHS_S)
        assert read_balance(second, coldkey) - before > 100
        assert second.values["SUBNET_NODE_ID"] not in list_node_ids(second)
    assert subnet.steps == []


def read_balance(person: Person, account: str) -> float:
    """Return an account's free TENSOR."""
    shown = json.loads(person.run(f"mesh chain balance {account} --json"))
    return int(shown["free"]) / 10**18


def list_node_ids(person: Person) -> set[str]:
    nodes = json.loads(person.run("mesh chain nodes --subnet my-subnet --json"))["nodes"]
    return {str(node["subnet_node_id"]) for node in nodes}
