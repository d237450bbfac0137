"""``mesh chain register-subnet`` and ``mesh chain register-node``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.chain.options import (
    CommandResult,
    Signing,
    expand_options,
    parse_account,
    parse_amount,
    parse_pair,
    parse_peer_id,
)
from subnet.cli.options import Subnet
from subnet.errors import UsageError

if TYPE_CHECKING:
    from consensus.types import SubnetId
    from keys.peer import PeerId
    from subnet.account.conditions import Precondition
    from subnet.chain.substrate import SubstrateChain

MANIFEST_DIGITS = 64
MAX_PERCENT = 100


@expand_options
def register_subnet(
    name: Annotated[str, typer.Option("--name", help="Unique name.")],
    repo: Annotated[str, typer.Option("--repo", help="Unique address of the source code.")],
    initial_coldkey: Annotated[
        list[str],
        typer.Option(help="ADDRESS=COUNT: who may register how many nodes; repeat it."),
    ],
    bootnode: Annotated[
        list[str], typer.Option(help="PEER_ID=MULTIADDR of a bootstrap node; repeat it.")
    ],
    description: Annotated[str, typer.Option(help="What the subnet serves.")] = "",
    misc: Annotated[str, typer.Option(help="Anything else that the chain should keep.")] = "",
    manifest_hash: Annotated[
        str | None, typer.Option(help="SHA-256 of the model manifest; kept in misc.")
    ] = None,
    min_stake: Annotated[str, typer.Option(help="Least stake of a node, TENSOR.")] = "100",
    max_stake: Annotated[str, typer.Option(help="Most stake of a node, TENSOR.")] = "1000",
    delegate_percent: Annotated[
        float, typer.Option(min=0, max=MAX_PERCENT, help="Share of delegators in the rewards.")
    ] = 10.0,
    max_cost: Annotated[str, typer.Option(help="Most to pay for registration, TENSOR.")] = "10",
    *,
    signing: Signing,
) -> None:
    """Register a subnet; the signing account becomes its owner."""
    coldkeys = dict(_parse_coldkey(text) for text in initial_coldkey)
    bootnodes = dict(
        parse_pair(text, option="--bootnode", form="PEER_ID=MULTIADDR") for text in bootnode
    )
    note = _join_misc(misc, manifest_hash)
    stakes = parse_amount(min_stake), parse_amount(max_stake)
    cost = parse_amount(max_cost)
    key = signing.load_key()

    async def work(chain: SubstrateChain) -> CommandResult | Sequence[Precondition]:
        from subnet.account import conditions, registration

        wanted = registration.SubnetRegistration(
            name=name,
            repo=repo,
            description=description,
            misc=note,
            initial_coldkeys=coldkeys,
            bootnodes=bootnodes,
            min_stake=stakes[0],
            max_stake=stakes[1],
            delegate_stake_percentage=round(delegate_percent * registration.PERCENT),
            max_cost=cost,
        )
        if signing.dry_run:
            return await conditions.check_register_subnet(chain, wanted, owner=key.account_id)
        outcome = await registration.register_subnet(chain, wanted, owner=key)
        block = outcome.receipt.block_number
        return CommandResult(
            {"subnet_id": outcome.subnet_id, "name": name, "block": block},
            f"subnet {outcome.subnet_id} ({name}) is registered in block {block}",
        )

    signing.give_outcome(signing.ask(work))


@expand_options
def register_node(
    subnet: Subnet,
    hotkey: Annotated[
        str | None, typer.Option("--hotkey", help="The node's hotkey account, 0x...")
    ] = None,
    hotkey_path: Annotated[
        Path | None, typer.Option(help="Keystore of the hotkey; only its address is read.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Directory that `mesh keygen` filled: all three peer ids."),
    ] = None,
    peer_id: Annotated[str | None, typer.Option(help="Main peer id, 12D3KooW...")] = None,
    bootnode_peer_id: Annotated[str | None, typer.Option(help="Bootstrap peer id.")] = None,
    client_peer_id: Annotated[str | None, typer.Option(help="Client peer id.")] = None,
    multiaddr: Annotated[
        str | None, typer.Option(help="Where the node listens, /ip4/.../tcp/...")
    ] = None,
    bootnode_multiaddr: Annotated[
        str | None, typer.Option(help="Where the bootstrap node listens.")
    ] = None,
    stake: Annotated[str, typer.Option(help="Stake, TENSOR.")] = "100",
    delegate_percent: Annotated[
        float, typer.Option(min=0, max=MAX_PERCENT, help="Rewards given to the node's delegators.")
    ] = 0.0,
    max_burn: Annotated[str, typer.Option(help="Most to burn for registration, TENSOR.")] = "1",
    *,
    signing: Signing,
) -> None:
    """Register a node; the signing account is its coldkey and puts up the stake."""
    peers = _read_peers(directory, peer_id, bootnode_peer_id, client_peer_id)
    hotkey_id = _read_hotkey(hotkey, hotkey_path)
    staked, burn = parse_amount(stake), parse_amount(max_burn)
    key = signing.load_key()

    async def work(
        chain: SubstrateChain, subnet_id: SubnetId
    ) -> CommandResult | Sequence[Precondition]:
        from subnet.account import conditions, registration

        wanted = registration.NodeRegistration(
            subnet_id=subnet_id,
            hotkey=hotkey_id,
            peer_id=peers[0],
            bootnode_peer_id=peers[1],
            client_peer_id=peers[2],
            multiaddr=multiaddr,
            bootnode_multiaddr=bootnode_multiaddr,
            stake=staked,
            delegate_reward_rate=round(delegate_percent * registration.PERCENT),
            max_burn=burn,
        )
        if signing.dry_run:
            return await conditions.check_register_node(chain, wanted, coldkey=key.account_id)
        outcome = await registration.register_node(chain, wanted, coldkey=key)
        state = "queued" if outcome.is_queued else "active"
        block = outcome.receipt.block_number
        return CommandResult(
            {
                "subnet_id": subnet_id,
                "subnet_node_id": outcome.node_id,
                "state": state,
                "block": block,
            },
            f"node {outcome.node_id} is registered in block {block} ({state})",
        )

    signing.give_outcome(signing.ask_subnet(subnet, work))


def _parse_coldkey(text: str) -> tuple[bytes, int]:
    form = "ADDRESS=COUNT"
    address, count = parse_pair(text, option="--initial-coldkey", form=form)
    if not count.isdecimal():
        raise UsageError(f"{count!r} is not a number of nodes", f"write --initial-coldkey {form}")
    return parse_account(address), int(count)


def _join_misc(misc: str, manifest_hash: str | None) -> str:
    from subnet.chain.manifest_hash import MANIFEST_MARK

    if manifest_hash is None:
        return misc
    digits = manifest_hash.removeprefix("0x").lower()
    if len(digits) != MANIFEST_DIGITS or any(digit not in "0123456789abcdef" for digit in digits):
        raise UsageError("--manifest-hash is not a SHA-256", "write its 64 hexadecimal digits")
    return f"{misc} {MANIFEST_MARK}{digits}".strip()


def _read_hotkey(hotkey: str | None, hotkey_path: Path | None) -> bytes:
    if hotkey is not None and hotkey_path is None:
        return parse_account(hotkey)
    if hotkey_path is not None and hotkey is None:
        from keys.keystore import read_keystore_account

        return read_keystore_account(hotkey_path)
    raise UsageError("a node needs one hotkey", "give --hotkey 0x... or --hotkey-path FILE")


def _read_peers(
    directory: Path | None, main: str | None, bootnode: str | None, client: str | None
) -> tuple[PeerId, PeerId | None, PeerId | None]:
    """Return main, bootstrap and client peer id; text given goes before the directory."""
    from keys.identity_file import IDENTITY_FILES, load_identity_file

    peers: list[PeerId | None] = []
    for text, name in zip((main, bootnode, client), IDENTITY_FILES, strict=True):
        if text is not None:
            peers.append(parse_peer_id(text))
        elif directory is not None:
            peers.append(load_identity_file(directory / name).peer_id)
        else:
            peers.append(None)
    if peers[0] is None:
        raise UsageError(
            "a node needs a peer id", "give --peer-id, or --dir DIR after `mesh keygen`"
        )
    return peers[0], peers[1], peers[2]
