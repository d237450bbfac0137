"""The calls of owners, operators and delegators after registration: one command each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.chain.options import (
    DEFAULT_CHAIN,
    NO_TIP,
    AsJson,
    Chain,
    DevAccount,
    DryRun,
    KeyFile,
    PasswordFile,
    Subnet,
    Tip,
    load_signer,
    open_chain,
    parse_account,
    parse_amount,
    print_checks,
    print_result,
    require_subnet,
    run,
)
from subnet.errors import UsageError

if TYPE_CHECKING:
    from keys.account import AccountKey
    from subnet.chain.substrate import SubstrateChain

NodeId = Annotated[int, typer.Option("--node-id", min=1, help="The node's id in the subnet.")]
Amount = Annotated[str, typer.Option("--amount", help="TENSOR, for example 12.5.")]
Shares = Annotated[int, typer.Option("--shares", min=1, help="Shares to give back.")]
Hotkey = Annotated[str, typer.Option("--hotkey", help="Hotkey account, 0x...")]

AMOUNT_SETTINGS = frozenset({"min-max-stake"})
TEXT_SETTINGS = frozenset({"name", "repo", "description", "misc"})


@dataclass(frozen=True, slots=True)
class Signing:
    """The options that every signing command has."""

    chain: str
    key_file: Path | None
    password_file: Path | None
    dev_account: str | None
    tip: str
    dry_run: bool
    as_json: bool

    def load(self) -> AccountKey:
        return load_signer(
            key_file=self.key_file,
            password_file=self.password_file,
            dev_account=self.dev_account,
        )


Arguments = Mapping[str, object]


def _send(
    signing: Signing,
    call: str,
    build: Callable[[int], Arguments],
    *,
    subnet: str | None = None,
    owner_only: bool = False,
    node_id: int | None = None,
) -> None:
    """Sign and send ``Network.<call>``; ``build`` gets the subnet's id, 0 if there is none."""
    key = signing.load()

    async def work() -> None:
        async with open_chain(
            signing.chain, dev_account=signing.dev_account, tip=signing.tip
        ) as client:
            subnet_id = 0 if subnet is None else await require_subnet(client, subnet)
            arguments = build(subnet_id)
            if signing.dry_run:
                await _list_conditions(
                    client, signing, call, arguments, key, owner_only=owner_only, node_id=node_id
                )
                return
            inclusion = await client.submit("Network", call, arguments, key=key)
            block = inclusion.receipt.block_number
            result = {
                "call": call,
                "block": block,
                "extrinsic": f"0x{inclusion.receipt.extrinsic_hash.hex()}",
                "events": [str(event) for event in inclusion.events],
            }
            print_result(result, as_json=signing.as_json, text=f"{call}: done in block {block}")

    run(work)


async def _list_conditions(
    client: SubstrateChain,
    signing: Signing,
    call: str,
    arguments: Arguments,
    key: AccountKey,
    *,
    owner_only: bool,
    node_id: int | None,
) -> None:
    from subnet.account.conditions import check_call

    checks = await check_call(
        client, call, arguments, signer=key.account_id, owner_only=owner_only, node_id=node_id
    )
    print_checks(checks, as_json=signing.as_json)


def pause_subnet(
    subnet: Subnet,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Pause a subnet, signed by its owner."""
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(signing, "owner_pause_subnet", _subnet_only, subnet=subnet, owner_only=True)


def unpause_subnet(
    subnet: Subnet,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let a paused subnet go on, signed by its owner."""
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(signing, "owner_unpause_subnet", _subnet_only, subnet=subnet, owner_only=True)


def deactivate_subnet(
    subnet: Subnet,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: it removes the subnet.")] = False,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove a subnet at once and for good, signed by its owner. Stake stays claimable."""
    if not yes and not dry_run:
        typer.confirm(f"Remove subnet {subnet} for good?", abort=True, err=True)
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(signing, "owner_deactivate_subnet", _subnet_only, subnet=subnet, owner_only=True)


def set_subnet(
    subnet: Subnet,
    setting: Annotated[
        str, typer.Argument(help="The owner call without owner_update_, such as churn-limit.")
    ],
    values: Annotated[
        list[str], typer.Argument(help="Text, a number, or TENSOR for min-max-stake (two).")
    ],
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Change one of a subnet's settings, signed by its owner."""
    arguments = _parse_setting(setting, values)
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(
        signing,
        f"owner_update_{setting.replace('-', '_')}",
        lambda subnet_id: {"subnet_id": subnet_id, **arguments},
        subnet=subnet,
        owner_only=True,
    )


def update_peer_info(
    subnet: Subnet,
    node_id: NodeId,
    peer_id: Annotated[str, typer.Option(help="The node's new peer id, 12D3KooW...")],
    multiaddr: Annotated[str | None, typer.Option(help="Where it listens.")] = None,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give a node a new main peer id, signed by its coldkey."""
    from keys.errors import BadPeerId
    from keys.peer import PeerId
    from subnet.account.registration import build_peer_info

    try:
        info = build_peer_info(PeerId.from_base58(peer_id), multiaddr)
    except BadPeerId as error:
        raise UsageError(
            f"{peer_id!r} is not a peer id: {error}", "write it as 12D3KooW..."
        ) from error
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(
        signing,
        "update_peer_info",
        lambda subnet_id: {
            "subnet_id": subnet_id,
            "subnet_node_id": node_id,
            "new_peer_info": info,
        },
        subnet=subnet,
        node_id=node_id,
    )


def remove_node(
    subnet: Subnet,
    node_id: NodeId,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take a node out of its subnet, signed by its coldkey or hotkey. The stake stays."""
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(
        signing,
        "remove_subnet_node",
        lambda subnet_id: {"subnet_id": subnet_id, "subnet_node_id": node_id},
        subnet=subnet,
        node_id=node_id,
    )


def add_stake(
    subnet: Subnet,
    node_id: NodeId,
    hotkey: Hotkey,
    amount: Amount,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Add to a node's stake, signed by its coldkey."""
    account, units = _account_text(hotkey), parse_amount(amount)
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(
        signing,
        "add_stake",
        lambda subnet_id: {
            "subnet_id": subnet_id,
            "subnet_node_id": node_id,
            "hotkey": account,
            "stake_to_be_added": units,
        },
        subnet=subnet,
        node_id=node_id,
    )


def remove_stake(
    subnet: Subnet,
    hotkey: Hotkey,
    amount: Amount,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Begin to unbond stake, signed by the coldkey; `unbondings` tells when it can be claimed."""
    account, units = _account_text(hotkey), parse_amount(amount)
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(
        signing,
        "remove_stake",
        lambda subnet_id: {
            "subnet_id": subnet_id,
            "hotkey": account,
            "stake_to_be_removed": units,
        },
        subnet=subnet,
    )


def claim(
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Claim every unbonding whose time has come."""
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(signing, "claim_unbondings", lambda _: {})


def delegate(
    subnet: Subnet,
    amount: Amount,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delegate stake to a subnet: its emissions grow with it."""
    units = parse_amount(amount)
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(
        signing,
        "add_to_delegate_stake",
        lambda subnet_id: {"subnet_id": subnet_id, "stake_to_be_added": units},
        subnet=subnet,
    )


def undelegate(
    subnet: Subnet,
    shares: Shares,
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Begin to unbond delegated stake, by shares."""
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(
        signing,
        "remove_delegate_stake",
        lambda subnet_id: {"subnet_id": subnet_id, "shares_to_be_removed": shares},
        subnet=subnet,
    )


def update_hotkey(
    old: Annotated[str, typer.Option("--old", help="Present hotkey account.")],
    new: Annotated[str, typer.Option("--new", help="New hotkey account; it has no owner yet.")],
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move a node and its stake to another hotkey, signed by the coldkey."""
    arguments = {"old_hotkey": _account_text(old), "new_hotkey": _account_text(new)}
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(signing, "update_hotkey", lambda _: arguments)


def update_coldkey(
    hotkey: Hotkey,
    new: Annotated[str, typer.Option("--new", help="New coldkey account.")],
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Give a hotkey another owner, signed by the present coldkey.

    The runtime moves everything of the coldkey but renames the owner of this hotkey only: with
    several hotkeys under one coldkey the others are left behind.
    """
    arguments = {"hotkey": _account_text(hotkey), "new_coldkey": _account_text(new)}
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(signing, "update_coldkey", lambda _: arguments)


IDENTITY_FIELDS = (
    "name",
    "url",
    "image",
    "discord",
    "x",
    "telegram",
    "github",
    "hugging_face",
    "description",
    "misc",
)


def identity(
    hotkey: Hotkey,
    field: Annotated[
        list[str], typer.Option(help="NAME=TEXT; the chain wants all ten, none empty.")
    ],
    chain: Chain = DEFAULT_CHAIN,
    key_file: KeyFile = None,
    password_file: PasswordFile = None,
    dev_account: DevAccount = None,
    tip: Tip = NO_TIP,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Register or change the identity of a coldkey: name, url, image, discord, x, telegram, ..."""
    given = dict(_parse_identity_field(text) for text in field)
    missing = [name for name in IDENTITY_FIELDS if name not in given]
    if missing:
        raise UsageError(
            f"the identity lacks {', '.join(missing)}", "give --field NAME=TEXT for each"
        )
    arguments = {"hotkey": _account_text(hotkey), **given}
    signing = Signing(chain, key_file, password_file, dev_account, tip, dry_run, as_json)
    _send(signing, "register_or_update_identity", lambda _: arguments)


def _subnet_only(subnet_id: int) -> Arguments:
    return {"subnet_id": subnet_id}


def _account_text(text: str) -> str:
    return f"0x{parse_account(text).hex()}"


def _parse_identity_field(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    name = name.replace("-", "_")
    if name not in IDENTITY_FIELDS or not equals:
        raise UsageError(f"{text!r} is not a field of an identity", "write --field name=TEXT")
    return name, value.encode()


def _parse_setting(setting: str, values: list[str]) -> Arguments:
    """Return the call's arguments: bytes, an integer, or two amounts. Raises UsageError."""
    wanted = 2 if setting in AMOUNT_SETTINGS else 1
    if len(values) != wanted:
        raise UsageError(f"{setting} takes {wanted} value(s), not {len(values)}", "check the line")
    if setting in AMOUNT_SETTINGS:
        return {"min": parse_amount(values[0]), "max": parse_amount(values[1])}
    if setting in TEXT_SETTINGS:
        return {"value": values[0].encode()}
    if not values[0].isdecimal():
        raise UsageError(f"{setting} takes a whole number", "percentages are 10^18 for 100 %")
    return {"value": int(values[0])}
