"""``mesh chain`` against a development chain, from registration to an active subnet."""

from __future__ import annotations

import asyncio
import io
import json
import re
import secrets
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain
from keys.account import (
    DEVELOPMENT_MNEMONIC,
    AccountKey,
    derive_development_account,
    get_development_account,
)
from keys.identity_file import create_identity_set
from keys.keystore import create_keystore
from keys.peer import PeerKey
from keys.secret_file import create_secret_file
from subnet.account.metagraph import Metagraph
from subnet.account.registration import TENSOR
from subnet.chain.development import check_development_chain
from subnet.chain.substrate import SubstrateChain
from subnet.cli.chain.app import app
from subnet.cli.console import run_app
from subnet.errors import ChainMismatch
from tests.support.chopsticks import REAL_RUNTIME_MARKS

NAMES = ("alith", "baltathar", "charleth", "dorothy")
BOOTNODE = PeerKey(bytes([9]) * 32).peer_id
PASSWORD = "correct horse"
CHEAP = 1 << 4
"""scrypt's N for a keystore that guards nothing."""


@dataclass(frozen=True)
class Node:
    """A registered node and the hotkey that signs for it."""

    node_id: int
    hotkey: AccountKey


class Shell:
    """Runs command lines against one chain, as a person would."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(_run, [*arguments, "--chain", self._url])

    async def ok(self, *arguments: str) -> dict[str, Any]:
        code, out, err = await self.run(*arguments, "--json")
        assert code == 0, err
        result = json.loads(out)
        assert isinstance(result, dict)
        return result

    async def fails(self, *arguments: str, code: int = 1) -> str:
        got, out, err = await self.run(*arguments)
        assert (got, out) == (code, ""), err
        assert "error: " in err and "\nhint: " in err
        return err


def _run(line: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        run_app(app, line, name="mesh chain")
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture
async def devchain() -> AsyncIterator[DevChain]:
    config = DevChainConfig(mode=BlockMode.INSTANT, seed=b"chain commands")
    async with DevChain.open(config) as running:
        yield running


@pytest.fixture
def cheap_keystores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keystores that guard nothing; the strong ones that commands make take seconds each."""
    defaults = create_keystore.__kwdefaults__ | {"work_factor": CHEAP}
    monkeypatch.setattr(create_keystore, "__kwdefaults__", defaults)


@pytest.fixture
def shell(devchain: DevChain) -> Shell:
    return Shell(devchain.url)


@pytest.fixture(params=["devchain", pytest.param("real runtime", marks=REAL_RUNTIME_MARKS)])
def any_shell(request: pytest.FixtureRequest) -> Shell:
    if request.param == "real runtime":
        return Shell(request.getfixturevalue("real_runtime"))
    return Shell(request.getfixturevalue("devchain").url)


def subnet_line(*extra: str, dev_account: str = "alith") -> list[str]:
    coldkeys = [
        part
        for index in range(len(NAMES))
        for part in ("--initial-coldkey", f"{derive_development_account(index).address}=1")
    ]
    line = ["register-subnet", "--name", "mesh", "--repo", "example.org/mesh", *coldkeys]
    line += ["--bootnode", f"{BOOTNODE}=/ip4/127.0.0.1/tcp/31330", "--dev-account", dev_account]
    return [*line, *extra]


def node_line(directory: Path, name: str, hotkey: AccountKey) -> list[str]:
    create_identity_set(directory)
    line = ["register-node", "--subnet", "mesh", "--hotkey", hotkey.address]
    return [*line, "--dir", str(directory), "--dev-account", name]


async def test_a_subnet_is_registered_filled_and_activated_by_commands_alone(
    any_shell: Shell, tmp_path: Path
) -> None:
    shell, digest = any_shell, "ab" * 32
    assert all(row["holds"] for row in (await shell.ok(*subnet_line("--dry-run")))["conditions"])
    # Other tests may have registered subnets here, which doubles the price each time.
    line = subnet_line("--manifest-hash", digest, "--max-cost", "100000")
    subnet_id = (await shell.ok(*line))["subnet_id"]
    assert subnet_id >= 128001

    for index, name in enumerate(NAMES, start=1):
        line = node_line(tmp_path / name, name, AccountKey(bytes([index]) * 32))
        checks = await shell.ok(*line, "--dry-run")
        assert [row["condition"] for row in checks["conditions"] if not row["holds"]] == []
        node = await shell.ok(*line)
        assert node["subnet_node_id"] == index
        if node["state"] == "queued":
            activation = ["activate-node", "--subnet", "mesh", "--node", str(index)]
            await shell.ok(*activation, "--dev-account", name, "--dry-run")
            await shell.ok(*activation, "--dev-account", name)

    activation = ["activate-subnet", "--subnet", str(subnet_id), "--dev-account", "alith"]
    await shell.ok(*activation, "--dry-run")
    await shell.ok(*activation)

    shown = await shell.ok("show", "--subnet", str(subnet_id))
    assert shown["subnet"]["state"] == "Active"
    assert shown["subnet"]["misc"] == f"mesh-manifest:{digest}"
    assert [row["class"] for row in shown["nodes"]] == ["Validator"] * len(NAMES)
    assert [row["stake"] for row in shown["nodes"]] == ["100" + "0" * 18] * len(NAMES)
    assert shown["epoch"]["phase"] in {"propose", "commit", "reveal", "score"}

    code, out, _ = await shell.run("show", "--subnet", "mesh")
    assert code == 0 and f"{subnet_id} mesh (Active)" in out

    assert (await shell.ok("epoch", "--subnet", "mesh"))["length"] == 20
    code, out, _ = await shell.run("watch", "--subnet", "mesh", "--blocks", "1")
    assert code == 0 and "nothing proposed" in out
    assert "is not settled yet" in await shell.fails(
        "rewards", "--subnet", "mesh", "--epoch", "999"
    )
    listed = (await shell.ok("show"))["subnets"]
    assert (listed[-1]["subnet_id"], listed[-1]["name"]) == (subnet_id, "mesh")
    assert listed[-1]["state"] == "Active"
    refused = await shell.fails("show", "--subnet", "128999")
    assert "has no subnet '128999'" in refused and "`mesh chain show` lists" in refused

    code, out, _ = await shell.run(*activation, "--dry-run")
    assert code == 1 and "NO   the subnet is not active yet" in out
    assert "the subnet is active already" in await shell.fails(*activation)


async def test_money_moves_with_a_keystore_and_a_password_file(
    shell: Shell, tmp_path: Path
) -> None:
    keystore, password = tmp_path / "faith.json", tmp_path / "password"
    create_keystore(keystore, derive_development_account(5), PASSWORD, work_factor=CHEAP)
    create_secret_file(password, f"{PASSWORD}\n".encode())
    target = AccountKey(bytes([44]) * 32).address
    signer = ["--key-file", str(keystore), "--password-file", str(password)]
    await shell.ok("transfer", "--to", target, "--amount", "1.25", *signer)
    assert (await shell.ok("balance", target))["free"] == "1250000000000000000"

    password.write_text("wrong\n")
    assert "password does not open" in await shell.fails(
        "transfer", "--to", target, "--amount", "1", *signer
    )


@pytest.mark.usefixtures("cheap_keystores")
async def test_onboarding_walks_the_whole_way_and_can_be_walked_again(
    shell: Shell, devchain: DevChain, tmp_path: Path
) -> None:
    await shell.ok(*subnet_line())
    for index, name in enumerate(NAMES[:3], start=1):
        await shell.ok(*node_line(tmp_path / name, name, AccountKey(bytes([index]) * 32)))
        line = ["activate-node", "--subnet", "mesh", "--node", str(index)]
        await shell.ok(*line, "--dev-account", name)
    await shell.ok("activate-subnet", "--subnet", "mesh", "--dev-account", "alith")

    # The subnet is active, so the late node waits for its start epoch.
    devchain.set_mode(BlockMode.INTERVAL, 0.25)
    password = tmp_path / "password"
    create_secret_file(password, PASSWORD.encode())
    line = ["onboard", "--subnet", "mesh", "--dir", str(tmp_path / "late")]
    line += ["--hotkey-password-file", str(password), "--dev-account", "ethan"]
    code, out, err = await shell.run(*line, "--json")
    assert code == 0, err
    first = json.loads(out)
    assert first["subnet_node_id"] == 4
    assert first["start"][:3] == ["mesh-test", "MODEL", "--hoster"]
    for step in ("making a hotkey", "sending 0.01", "registering", "window opens", "activating"):
        assert step in err

    code, out, err = await shell.run(*line, "--json")
    assert code == 0 and json.loads(out) == first
    assert "registered already" in err and "activating" not in err

    shown = await shell.ok("show", "--subnet", "mesh")
    assert [row["class"] for row in shown["nodes"]] == ["Validator"] * 3 + ["Idle"]

    # It leaves with all that it staked, and its hotkey serves again.
    away = ["leave", "--subnet", "mesh", "--hotkey", shown["nodes"][3]["hotkey"]]
    away += ["--dev-account", "ethan"]
    code, out, err = await shell.run(*away, "--json", "--no-wait")
    assert code == 0, err
    (left,) = json.loads(out)["unbondings"]
    assert left["amount"] == str(100 * TENSOR)
    code, out, err = await shell.run(*away, "--json")
    assert (code, json.loads(out)) == (0, {"unbondings": []})
    assert "can be claimed in" in err and "claiming" in err
    assert (await shell.ok("unbondings", shown["nodes"][3]["coldkey"]))["unbondings"] == []
    code, out, err = await shell.run(*line, "--json")
    assert code == 0 and json.loads(out)["subnet_node_id"] == 5, err


@pytest.mark.usefixtures("cheap_keystores")
async def test_a_node_whose_window_closed_is_told_how_to_leave_and_come_back(
    shell: Shell, devchain: DevChain, tmp_path: Path
) -> None:
    await fill_subnet(shell, "mesh", tmp_path)
    hotkey = AccountKey.from_private_key(secrets.token_bytes(32))
    create_identity_set(tmp_path / "late")
    password = tmp_path / "password"
    create_secret_file(password, PASSWORD.encode())
    create_keystore(tmp_path / "late" / "hotkey.json", hotkey, PASSWORD)
    line = ["register-node", "--subnet", "mesh", "--hotkey", hotkey.address]
    line += ["--dir", str(tmp_path / "late"), "--dev-account", "ethan"]
    node_id = str((await shell.ok(*line))["subnet_node_id"])
    dry = ["activate-node", "--subnet", "mesh", "--node", node_id, "--dry-run"]
    dry += ["--dev-account", "ethan"]
    code, out, _ = await shell.run(*dry)
    assert code == 1 and re.search(r"NO   the epoch is \d+ to \d+", out)
    (row,) = (await shell.ok("queue", "--subnet", "mesh"))["queue"]
    async with SubstrateChain.open(devchain.url) as chain:
        length = (await chain.fetch_info()).epoch_length
        count = (row["last_epoch"] + 2) * length
        await chain.query(lambda session: session.rpc("dev_newBlock", {"count": count}))
    assert (await shell.run(*dry))[0] == 1
    line = ["onboard", "--subnet", "mesh", "--dir", str(tmp_path / "late")]
    line += ["--hotkey-password-file", str(password), "--dev-account", "ethan"]
    code, _, err = await shell.run(*line)
    assert code == 1
    fix = re.search(r"hint: run `mesh chain (leave [^`]+)`", err)
    assert fix is not None, err
    assert (await shell.run(*fix[1].split(), "--dev-account", "ethan", "--no-wait"))[0] == 0


async def test_a_metagraph_is_kept_in_a_file_and_read_back(shell: Shell, tmp_path: Path) -> None:
    await shell.ok(*subnet_line())
    for index, name in enumerate(NAMES, start=1):
        await shell.ok(*node_line(tmp_path / name, name, AccountKey(bytes([index]) * 32)))
    kept = tmp_path / "graph.json"
    fetched = await shell.ok("metagraph", "--subnet", "mesh", "--save", str(kept))
    assert [row["subnet_node_id"] for row in fetched["nodes"]] == [1, 2, 3, 4]
    assert {row["stake"] for row in fetched["nodes"]} == {"100" + "0" * 18}
    assert {row["score"] for row in fetched["nodes"]} == {"-1"}
    assert await Shell("ws://127.0.0.1:1").ok("metagraph", "--load", str(kept)) == fetched

    graph = Metagraph.load(kept)
    assert graph.node_ids.tolist() == [1, 2, 3, 4]
    assert sum(graph.stakes) == 400 * 10**18
    assert graph.get_index(3) == 2
    with pytest.raises(KeyError):
        graph.get_index(9)

    kept.write_text(kept.read_text().replace("mesh-metagraph-1", "another"))
    assert "is not a metagraph" in await shell.fails("metagraph", "--load", str(kept))


async def test_accounts_are_made_imported_shown_and_listed(tmp_path: Path) -> None:
    password, phrase = tmp_path / "password", tmp_path / "phrase"
    create_secret_file(password, PASSWORD.encode())
    phrase.write_text(DEVELOPMENT_MNEMONIC)
    (tmp_path / "noise.json").write_text("{}")
    secret = ["--password-file", str(password)]

    async def accounts(*arguments: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(_run, ["accounts", *arguments])

    made, imported = tmp_path / "new.json", tmp_path / "imported.json"
    code, out, _ = await accounts("new", str(made), *secret, "--json")
    account = json.loads(out)["account"]
    assert code == 0
    line = ["import", str(imported), "--phrase-file", str(phrase), "--index", "1", *secret]
    assert (await accounts(*line))[0] == 0
    (tmp_path / "empty").mkdir()
    code, out, err = await accounts("list", str(tmp_path / "empty"))
    assert (code, out) == (0, "")
    assert f"no keystore (*.json) in {tmp_path / 'empty'}" in err and "accounts new" in err

    code, out, _ = await accounts("show", str(imported))
    assert derive_development_account(1).address in out
    code, out, err = await accounts("list", str(tmp_path), "--json")
    assert {row["account"] for row in json.loads(out)} == {
        account,
        derive_development_account(1).address,
    }
    assert "noise.json" in err

    code, _, err = await accounts("new", str(made), *secret)
    assert code == 1 and "never overwritten" in err
    phrase.write_text("not a phrase")
    code, _, err = await accounts("import", str(tmp_path / "x.json"), *line[2:])
    assert code == 1 and "not a phrase" not in err


@pytest.mark.usefixtures("cheap_keystores")
async def test_a_phrase_brings_an_account_back_and_is_never_in_the_output(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    create_secret_file(old, PASSWORD.encode())
    create_secret_file(new, b"another password")
    made, phrase = tmp_path / "made.json", tmp_path / "phrase"

    async def accounts(*arguments: str) -> str:
        code, out, err = await asyncio.to_thread(_run, ["accounts", *arguments, "--json"])
        assert code == 0, err
        shown.append(out + err)
        return str(json.loads(out)["account"])

    shown: list[str] = []
    line = [str(made), "--password-file", str(old)]
    account = await accounts("new", *line, "--phrase-file", str(phrase))
    words = phrase.read_text().split()
    assert len(words) == 24 and stat.S_IMODE(phrase.stat().st_mode) == 0o600
    again = ["import", str(tmp_path / "again.json"), "--phrase-file", str(phrase)]
    assert await accounts(*again, "--password-file", str(old)) == account

    changed = ["password", str(made), "--password-file", str(old), "--new-password-file", str(new)]
    assert await accounts(*changed) == account
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    code, _, err = await asyncio.to_thread(_run, ["accounts", *changed])
    assert code == 1 and "password does not open" in err

    plain = tmp_path / "plain"
    export = ["export", str(made), "--out", str(plain), "--password-file"]
    assert await accounts(*export, str(new)) == account
    key = plain.read_text().strip()
    assert AccountKey.from_private_key(bytes.fromhex(key[2:])).address == account
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    code, _, err = await asyncio.to_thread(_run, ["accounts", *export, str(new)])
    assert code == 1 and "never overwritten" in err

    # Without a terminal no phrase is shown at all.
    await accounts("new", str(tmp_path / "other.json"), "--password-file", str(old))
    assert "on a terminal only" in shown[-1]
    assert not any(key[2:] in text or " ".join(words[:3]) in text for text in shown)


async def test_stake_is_seen_to_unbond(shell: Shell) -> None:
    rows = await shell.ok("unbondings", derive_development_account(0).address)
    assert rows["unbondings"] == []


async def test_owner_calls_are_checked_before_they_are_signed(shell: Shell) -> None:
    await shell.ok(*subnet_line())
    line = ["set-subnet", "description", "better", "--subnet", "mesh"]
    code, out, _ = await shell.run(*line, "--dev-account", "faith", "--dry-run")
    assert code == 1 and "NO   the signer owns the subnet" in out
    sent = await shell.ok(*line, "--dev-account", "alith")
    assert sent["call"] == "owner_update_description"
    for values in (["churn-limit", "many"], ["churn-limit", "1", "2"], ["min-max-stake", "1"]):
        await shell.fails("set-subnet", *values, "--subnet", "mesh", code=2)
    assert "no call Network.owner_update_nonsense" in await shell.fails(
        "set-subnet", "nonsense", "1", "--subnet", "mesh", "--dev-account", "alith"
    )
    assert "lacks url" in await shell.fails(
        "identity", "--hotkey", "0x" + "1" * 40, "--field", "name=a", code=2
    )


async def test_refusals_are_one_sentence_and_one_fix(shell: Shell) -> None:
    await shell.ok(*subnet_line())
    assert "another subnet has this name" in await shell.fails(*subnet_line())
    assert "lacks active nodes" in await shell.fails(
        "activate-subnet", "--subnet", "mesh", "--dev-account", "alith"
    )
    assert "not the subnet's owner" in await shell.fails(
        "activate-subnet", "--subnet", "mesh", "--dev-account", "faith"
    )
    assert "has no subnet 'nope'" in await shell.fails("show", "--subnet", "nope")
    assert "not peer id text" not in await shell.fails(
        "register-node", "--subnet", "mesh", "--dev-account", "alith", code=2
    )


@pytest.mark.parametrize(
    "line",
    [
        ["balance", "0x12"],
        ["transfer", "--to", "0x" + "1" * 40, "--amount", "-1", "--dev-account", "alith"],
        ["transfer", "--to", "0x" + "1" * 40, "--amount", "1"],
        subnet_line("--manifest-hash", "abc"),
        subnet_line("--initial-coldkey", "0x12=1"),
        subnet_line("--bootnode", "no pair"),
        ["register-node", "--subnet", "1", "--hotkey", "0x" + "1" * 40, "--peer-id", "Qm"],
    ],
)
async def test_a_wrong_command_line_is_a_usage_error_before_the_chain_is_asked(
    line: list[str],
) -> None:
    await Shell("ws://127.0.0.1:1").fails(*line, code=2)


async def test_a_bad_bootnode_address_is_refused_before_anything_is_signed(shell: Shell) -> None:
    line = subnet_line("--bootnode", f"{BOOTNODE}=/ip4/1.2.3.4/sctp/1")
    assert "is not something that the chain takes" in await shell.fails(*line)


async def test_a_chain_that_is_down_is_one_sentence() -> None:
    err = await Shell("ws://127.0.0.1:1").fails("balance", "0x" + "1" * 40)
    assert "does not answer" in err


async def test_a_development_account_is_refused_on_a_live_chain() -> None:
    class LiveChain:
        async def query(self, _work: object) -> str:
            return "Live"

    with pytest.raises(ChainMismatch, match="not a development chain"):
        await check_development_chain(LiveChain(), "wss://live")  # type: ignore[arg-type]


async def test_no_secret_is_taken_from_the_command_line() -> None:
    code, out, _ = await asyncio.to_thread(_run, ["transfer", "--help"])
    assert code == 0
    assert not {"--private-key", "--mnemonic", "--password ", "--seed"} & set(out.split())


def named_subnet_line(name: str, coldkeys: Sequence[str]) -> list[str]:
    line = ["register-subnet", "--name", name, "--repo", f"example.org/{name}"]
    for address in coldkeys:
        line += ["--initial-coldkey", f"{address}=1"]
    line += ["--bootnode", f"{BOOTNODE}=/ip4/127.0.0.1/tcp/31330", "--dev-account", "alith"]
    # Other tests may have registered subnets here, which doubles the price each time.
    return [*line, "--max-cost", "100000"]


async def register_by(shell: Shell, subnet: str, directory: Path, signer: list[str]) -> Node:
    """Register one node with new keys; activate it where the chain leaves that to us."""
    hotkey = AccountKey.from_private_key(secrets.token_bytes(32))
    create_identity_set(directory)
    line = ["register-node", "--subnet", subnet, "--hotkey", hotkey.address]
    node = await shell.ok(*line, "--dir", str(directory), *signer)
    node_id = node["subnet_node_id"]
    if node["state"] == "queued":
        await shell.ok("activate-node", "--subnet", subnet, "--node", str(node_id), *signer)
    return Node(node_id, hotkey)


async def fill_subnet(shell: Shell, name: str, directory: Path) -> None:
    """Register a subnet with three nodes and activate it."""
    names = NAMES[:3]
    coldkeys = [get_development_account(one).address for one in names]
    await shell.ok(*named_subnet_line(name, coldkeys))
    for one in names:
        await register_by(shell, name, directory / one, ["--dev-account", one])
    await shell.ok("activate-subnet", "--subnet", name, "--dev-account", "alith")


async def test_a_late_node_is_seen_in_the_queue_and_a_node_by_itself(
    any_shell: Shell, tmp_path: Path
) -> None:
    shell = any_shell
    await fill_subnet(shell, "waiting", tmp_path)
    assert await shell.ok("queue", "--subnet", "waiting") == {"queue": []}
    hotkey = AccountKey.from_private_key(secrets.token_bytes(32))
    line = ["register-node", "--subnet", "waiting", "--hotkey", hotkey.address]
    create_identity_set(tmp_path / "late")
    line += ["--dir", str(tmp_path / "late"), "--dev-account", "ethan"]
    assert (await shell.ok(*line))["state"] == "queued"

    (row,) = (await shell.ok("queue", "--subnet", "waiting"))["queue"]
    assert (row["subnet_node_id"], row["hotkey"]) == (4, hotkey.address.lower())
    assert row["start_epoch"] <= row["earliest_epoch"] <= row["start_epoch"] + 4
    assert row["removable_from"] == row["start_epoch"] + 3
    code, out, _ = await shell.run("queue", "--subnet", "waiting")
    assert code == 0 and out.startswith("1    node 4, which ")

    rows = (await shell.ok("nodes", "--subnet", "waiting"))["nodes"]
    assert [row["is_queued"] for row in rows] == [False, False, False, True]
    node = await shell.ok("node", "--subnet", "waiting", "--node", "4")
    assert node == rows[3]
    assert node["coldkey"] == get_development_account("ethan").address.lower()
    code, out, _ = await shell.run("node", "--subnet", "waiting", "--node", "1")
    assert code == 0 and "node        1, Validator" in out
    assert "has no node 9" in await shell.fails("node", "--subnet", "waiting", "--node", "9")
    elected = await shell.ok("elected", "--subnet", "waiting")
    assert elected["elected"] in {None, 1, 2, 3}
    assert await shell.ok("submission", "--subnet", "waiting") == {"submission": None}


async def test_a_tip_is_paid_on_top_of_the_fee(any_shell: Shell) -> None:
    shell, payer = any_shell, get_development_account("faith").address
    target = AccountKey.from_private_key(secrets.token_bytes(32)).address
    line = ["transfer", "--to", target, "--amount", "1", "--dev-account", "faith"]

    async def pay(*tip: str) -> int:
        before = int((await shell.ok("balance", payer))["free"])
        await shell.ok(*line, *tip)
        return before - int((await shell.ok("balance", payer))["free"])

    plain = await pay()
    assert abs(await pay("--tip", "2.5") - plain - 25 * TENSOR // 10) < TENSOR // 1000
    assert "is not an amount" in await shell.fails(*line, "--tip", "much", code=2)


async def test_delegated_stake_is_counted_and_given_back(any_shell: Shell, tmp_path: Path) -> None:
    shell, ethan = any_shell, get_development_account("ethan").address
    await fill_subnet(shell, "delegated", tmp_path)
    signed = ["--subnet", "delegated", "--dev-account", "ethan"]
    await shell.ok("delegate", "--amount", "20", *signed, "--dry-run")
    await shell.ok("delegate", "--amount", "20", *signed)
    shares = int((await shell.ok("delegation", ethan, "--subnet", "delegated"))["shares"])
    assert shares > 0
    before = (await shell.ok("unbondings", ethan))["unbondings"]
    sent = await shell.ok("undelegate", "--shares", str(shares // 2), *signed)
    assert "Network.SubnetDelegateStakeRemoved" in sent["events"]
    left = int((await shell.ok("delegation", ethan, "--subnet", "delegated"))["shares"])
    assert left == shares - shares // 2
    after = (await shell.ok("unbondings", ethan))["unbondings"]
    freed = sum(int(row["amount"]) for row in after) - sum(int(row["amount"]) for row in before)
    assert 9 * TENSOR < freed <= 10 * TENSOR
    await shell.fails("undelegate", "--shares", str(10 * shares), *signed)


async def test_a_coldkey_is_exchanged_and_only_the_new_one_signs(
    any_shell: Shell, tmp_path: Path
) -> None:
    shell = any_shell
    keys = [AccountKey.from_private_key(secrets.token_bytes(32)) for _ in range(2)]
    signers = []
    create_secret_file(tmp_path / "password", PASSWORD.encode())
    for number, key in enumerate(keys):
        path = tmp_path / f"coldkey-{number}.json"
        create_keystore(path, key, PASSWORD, work_factor=CHEAP)
        signers.append(["--key-file", str(path), "--password-file", str(tmp_path / "password")])
        line = ["transfer", "--to", key.address, "--amount", "150", "--dev-account", "alith"]
        await shell.ok(*line)
    others = [get_development_account(one).address for one in NAMES[:2]]
    await shell.ok(*named_subnet_line("exchanged", [keys[0].address, *others]))
    node = await register_by(shell, "exchanged", tmp_path / "node", signers[0])

    line = ["update-coldkey", "--hotkey", node.hotkey.address, "--new", keys[1].address]
    assert "does not own this node" in await shell.fails(*line, *signers[1])
    sent = await shell.ok(*line, *signers[0])
    assert "Network.UpdateColdkey" in sent["events"]
    shown = await shell.ok("node", "--subnet", "exchanged", "--node", str(node.node_id))
    assert shown["coldkey"] == keys[1].address.lower()

    stake = ["add-stake", "--subnet", "exchanged", "--node", str(node.node_id)]
    stake += ["--hotkey", node.hotkey.address, "--amount", "5"]
    await shell.fails(*stake, *signers[0])
    await shell.ok(*stake, *signers[1])
    shown = await shell.ok("node", "--subnet", "exchanged", "--node", str(node.node_id))
    assert shown["stake"] == str(105 * TENSOR)


@pytest.mark.usefixtures("cheap_keystores")
async def test_onboarding_before_activation_needs_no_window(
    any_shell: Shell, tmp_path: Path
) -> None:
    shell = any_shell
    coldkeys = [get_development_account(one).address for one in NAMES[:3]]
    await shell.ok(*named_subnet_line("onboarded", coldkeys))
    create_secret_file(tmp_path / "password", PASSWORD.encode())
    for number, name in enumerate(NAMES[:3], start=1):
        line = ["onboard", "--subnet", "onboarded", "--dir", str(tmp_path / name)]
        line += ["--hotkey-password-file", str(tmp_path / "password"), "--dev-account", name]
        onboarded = await shell.ok(*line)
        assert onboarded["subnet_node_id"] == number
        assert await shell.ok(*line) == onboarded
    await shell.ok("activate-subnet", "--subnet", "onboarded", "--dev-account", "alith")


async def test_a_node_is_delegated_to_and_shares_its_pay(any_shell: Shell, tmp_path: Path) -> None:
    shell, ethan = any_shell, get_development_account("ethan").address
    await fill_subnet(shell, "sharing", tmp_path)
    node = ["--subnet", "sharing", "--node", "2"]
    owner, delegator = ["--dev-account", NAMES[1]], ["--dev-account", "ethan"]
    await shell.ok("delegate-rate", *node, "--percent", "12.5", *owner)
    await shell.ok("delegate", *node, "--amount", "30", *delegator)
    shares = int((await shell.ok("delegation", ethan, *node))["shares"])
    assert shares > 0
    assert (await shell.ok("delegation", ethan, "--subnet", "sharing"))["shares"] == "0"
    await shell.ok("undelegate", *node, "--shares", str(shares // 2), *delegator)
    assert int((await shell.ok("delegation", ethan, *node))["shares"]) == shares - shares // 2
    await shell.ok("delegate-account", *node, "--account", ethan, "--percent", "5", *owner)
    await shell.ok("delegate-account", *node, "--percent", "4", *owner)
    assert "nothing is changed" in await shell.fails("delegate-account", *node, *owner, code=2)
    for kind in ("bootnode", "client"):
        peer = str(PeerKey.generate().peer_id)
        line = ["update-peer-info", *node, "--kind", kind, *owner]
        await shell.ok(*line, "--peer-id", peer, "--multiaddr", "/ip4/192.0.2.1/tcp/31330")
        await shell.ok(*line)
    line = ["update-peer-info", *node, *owner]
    assert "need --peer-id" in await shell.fails(*line, code=2)


async def test_a_subnet_gets_bootnodes_and_another_owner(any_shell: Shell, tmp_path: Path) -> None:
    shell, ethan = any_shell, get_development_account("ethan").address
    await fill_subnet(shell, "moving", tmp_path)
    subnet, owner, friend = ["--subnet", "moving"], ["--dev-account", "alith"], ["ethan"]
    peer = str(PeerKey.generate().peer_id)
    pair = f"{peer}=/ip4/192.0.2.1/tcp/31330"
    line = ["bootnodes", *subnet, "--add", pair, "--dev-account", *friend]
    await shell.fails(*line)
    await shell.ok("bootnode-access", ethan, *subnet, *owner)
    sent = await shell.ok(*line)
    assert "Network.BootnodesUpdated" in sent["events"]
    await shell.ok("bootnodes", *subnet, "--remove", peer, "--dev-account", *friend)
    await shell.ok("bootnode-access", ethan, "--remove", *subnet, *owner)
    assert "nothing is added" in await shell.fails("bootnodes", *subnet, *owner, code=2)
    await shell.ok("transfer-subnet", *subnet, "--to", ethan, *owner)
    await shell.ok("accept-subnet", *subnet, "--dev-account", *friend)
    pause = ["pause-subnet", *subnet, "--dry-run", "--dev-account"]
    assert (await shell.run(*pause, "alith"))[0] == 1
    assert (await shell.run(*pause, "ethan"))[0] == 0


async def test_a_coldkey_sees_all_that_it_has(shell: Shell, tmp_path: Path) -> None:
    coldkey = get_development_account(NAMES[0]).address
    await fill_subnet(shell, "one", tmp_path / "a")
    before = await shell.ok("coldkey", coldkey)
    (row,) = before["hotkeys"]
    assert (row["subnet_node_id"], row["class"]) == (1, "Validator")
    assert row["stake"] == str(100 * TENSOR) and before["unbondings"] == []
    await shell.ok("remove-node", "--subnet", "one", "--node", "1", "--dev-account", NAMES[0])
    after = await shell.ok("coldkey", coldkey)
    assert after["hotkeys"][0]["subnet_node_id"] is None
    code, out, _ = await shell.run("coldkey", coldkey)
    assert code == 0 and "no node any more" in out and "free      " in out
