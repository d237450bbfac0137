"""What the chain commands share: options, keys, and how they run and print."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli.console import emit, fail
from subnet.errors import ExtrinsicFailed, UnknownSubnet, UsageError

if TYPE_CHECKING:
    from keys.account import AccountKey
    from subnet.account.conditions import Check
    from subnet.chain.substrate import SubstrateChain

T = TypeVar("T")

DEFAULT_CHAIN = DEFAULT_CHAIN_URL
NO_TIP = "0"
DECIMALS = 18
MAX_AMOUNT = 2**128 - 1

Chain = Annotated[
    str,
    typer.Option(
        "--chain",
        envvar="MESH_CHAIN",
        help="WebSocket address of the chain; commas between fallbacks.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only list what the call needs and whether it holds.")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="Keystore (version 3) of the signing account.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the keystore's password; else it is asked."),
]
DevAccount = Annotated[
    str | None,
    typer.Option("--dev-account", help="Alith to Faith, on a development chain only."),
]
Tip = Annotated[
    str, typer.Option("--tip", help="TENSOR for the block's author, on top of the fee.")
]
Subnet = Annotated[str, typer.Option("--subnet", help="The subnet's id, friendly id or name.")]


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine; a refused extrinsic ends with its own fix."""
    import asyncio

    try:
        return asyncio.run(work())
    except ExtrinsicFailed as error:
        from subnet.chain.failures import get_fix

        fail(str(error), get_fix(error.reason))


def load_signer(
    *, key_file: Path | None, password_file: Path | None, dev_account: str | None
) -> AccountKey:
    """Return the key that signs. Raises UsageError unless exactly one source is named."""
    if dev_account is not None and key_file is None:
        from keys.account import get_development_account

        return get_development_account(dev_account)
    if key_file is not None and dev_account is None:
        from keys.keystore import load_keystore
        from subnet.operator.passwords import read_password

        password = read_password(password_file, prompt=f"Password of {key_file}")
        return load_keystore(key_file, password)
    raise UsageError(
        "a signing account is needed, from one source",
        "give --key-file FILE, or --dev-account NAME on a development chain",
    )


@asynccontextmanager
async def open_chain(
    url: str, *, dev_account: str | None = None, tip: str = NO_TIP
) -> AsyncIterator[SubstrateChain]:
    """Connect; a development account is refused unless the chain says that it is one."""
    from subnet.chain.development import check_development_chain
    from subnet.chain.substrate import SubstrateChain

    async with SubstrateChain.open(url, tip=parse_amount(tip)) as chain:
        if dev_account is not None:
            await check_development_chain(chain, url)
        yield chain


async def require_subnet(chain: SubstrateChain, wanted: str) -> Any:
    """Return the subnet's id. Raises UnknownSubnet if the chain has none by that name or id."""
    from subnet.account.registration import find_subnet

    subnet_id = await find_subnet(chain, wanted)
    if subnet_id is None:
        raise UnknownSubnet(f"the chain has no subnet {wanted!r}")
    return subnet_id


def parse_amount(text: str) -> int:
    """Return an amount of TENSOR in units of 10^-18. Raises UsageError."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0 or amount.adjusted() > 2 * DECIMALS:
        raise UsageError(f"{text!r} is not an amount of TENSOR", "write it as 12.5")
    units = amount.scaleb(DECIMALS)
    if units != units.to_integral_value() or units > MAX_AMOUNT:
        raise UsageError(f"{text!r} has more than {DECIMALS} decimals", "round it")
    return int(units)


def format_amount(units: int) -> str:
    """Return units of 10^-18 as TENSOR, exactly."""
    whole, rest = divmod(units, 10**DECIMALS)
    decimals = f"{rest:0{DECIMALS}d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else str(whole)


def parse_account(text: str) -> bytes:
    """Return the account id of an address. Raises UsageError."""
    from keys.account import parse_account_id
    from keys.errors import BadAccountId

    try:
        return parse_account_id(text)
    except BadAccountId as error:
        raise UsageError(
            f"{text!r} is not an account: {error}", "write it as 0x and 40 hexadecimal digits"
        ) from error


def parse_pair(text: str, *, option: str, form: str) -> tuple[str, str]:
    """Return the two sides of ``A=B``. Raises UsageError."""
    left, equals, right = text.partition("=")
    if not equals or not left or not right:
        raise UsageError(f"{option} {text!r} is not of the form {form}", f"write {option} {form}")
    return left, right


def print_result(result: dict[str, Any], *, as_json: bool, text: str) -> None:
    """Give the result as one JSON object or as a line."""
    emit(json.dumps(result) if as_json else text)


def print_checks(checks: Sequence[Check], *, as_json: bool) -> None:
    """List the conditions of a call; exit code 1 if one does not hold."""
    if as_json:
        rows = [{"condition": check.condition, "holds": check.holds} for check in checks]
        emit(json.dumps({"dry_run": True, "conditions": rows}))
    else:
        for check in checks:
            emit(f"{'yes' if check.holds else 'NO '}  {check.condition}")
    if not all(check.holds for check in checks):
        raise SystemExit(1)
