"""What the chain commands share: groups of options, keys, and how they run and print.

A command names its group as the annotation of one keyword parameter, and
``expand_options`` gives it the options of that group on the command line:

- ``Reading``: ``--chain`` and ``--json``, for what only looks;
- ``Signer``: the options of the signing account as well;
- ``Signing``: ``--dry-run`` as well, for one call that is signed and sent.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from subnet.account.amounts import DECIMALS
from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli.console import emit, fail
from subnet.cli.options import AsJson, Chain, PasswordFile
from subnet.errors import ExtrinsicFailed, UnknownSubnet, UsageError

if TYPE_CHECKING:
    from consensus.types import SubnetId
    from keys.account import AccountKey
    from keys.peer import PeerId
    from subnet.account.conditions import Precondition
    from subnet.chain.substrate import SubstrateChain

T = TypeVar("T")

MAX_AMOUNT = 2**128 - 1

Amount = Annotated[str, typer.Option("--amount", help="TENSOR, for example 12.5.")]
Hotkey = Annotated[str, typer.Option("--hotkey", help="Hotkey account, 0x...")]
AtBlock = Annotated[
    int | None, typer.Option("--at", min=0, help="Block number; the head if absent.")
]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command answers: one JSON object, or the same as text."""

    values: dict[str, Any]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The options of every command that talks to the chain."""

    chain: Chain = DEFAULT_CHAIN_URL
    as_json: AsJson = False

    def open(self) -> AbstractAsyncContextManager[SubstrateChain]:
        """Connect to the chain."""
        return open_chain(self.chain)

    def ask(self, question: Callable[[SubstrateChain], Awaitable[T]]) -> T:
        """Return what ``question`` gets from the chain. A refused extrinsic ends the command."""
        import asyncio

        async def work() -> T:
            async with self.open() as chain:
                return await question(chain)

        try:
            return asyncio.run(work())
        except ExtrinsicFailed as error:
            from subnet.chain.failures import get_fix

            fail(str(error), get_fix(error.reason))

    def ask_subnet(
        self, subnet: str, question: Callable[[SubstrateChain, SubnetId], Awaitable[T]]
    ) -> T:
        """Return what ``question`` gets about a subnet given by name or id.

        Raises UnknownSubnet.
        """

        async def work(chain: SubstrateChain) -> T:
            return await question(chain, await require_subnet(chain, subnet))

        return self.ask(work)

    def give(self, result: CommandResult) -> None:
        """Print the result in the form that ``--json`` chooses."""
        emit(json.dumps(result.values) if self.as_json else result.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer(Reading):
    """The options of every command that signs; ``key`` is the account's."""

    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="Keystore (version 3) of the signing account."),
    ] = None
    password_file: PasswordFile = None
    dev_account: Annotated[
        str | None,
        typer.Option("--dev-account", help="Alith to Faith, on a development chain only."),
    ] = None
    tip: Annotated[
        str, typer.Option("--tip", help="TENSOR for the block's author, on top of the fee.")
    ] = "0"

    def open(self) -> AbstractAsyncContextManager[SubstrateChain]:
        """Connect; a development account is refused unless the chain says that it is one."""
        return open_chain(self.chain, dev_account=self.dev_account, tip=self.tip)

    def load_key(self) -> AccountKey:
        """Return the key that signs. Raises UsageError unless exactly one source is named."""
        return load_signer(
            key_file=self.key_file,
            password_file=self.password_file,
            dev_account=self.dev_account,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing(Signer):
    """The options of every command that signs one call and sends it."""

    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only list what the call needs and whether it holds."),
    ] = False

    def give_outcome(self, outcome: CommandResult | Sequence[Precondition]) -> None:
        """Print the result of the call, or the conditions that a dry run found.

        Ends with exit code 1 if a condition does not hold.
        """
        if isinstance(outcome, CommandResult):
            self.give(outcome)
            return
        rows = [{"condition": check.condition, "holds": check.holds} for check in outcome]
        lines = [f"{'yes' if check.holds else 'NO '}  {check.condition}" for check in outcome]
        self.give(CommandResult({"dry_run": True, "conditions": rows}, "\n".join(lines)))
        if not all(check.holds for check in outcome):
            raise SystemExit(1)


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its group, one by one, as typer wants them.

    The group is the class that annotates the command's last parameter.
    """
    signature = inspect.signature(command, eval_str=True)
    *own, group = signature.parameters.values()
    options = inspect.signature(group.annotation, eval_str=True).parameters

    @functools.wraps(command)
    def run(**values: Any) -> None:
        chosen = group.annotation(**{name: values.pop(name) for name in options})
        command(**values, **{group.name: chosen})

    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*own, *options.values()]
    )
    return run


def load_signer(
    *, key_file: Path | None, password_file: Path | None, dev_account: str | None
) -> AccountKey:
    """Return the key that signs. Raises UsageError unless exactly one source is named."""
    if dev_account is not None and key_file is None:
        from keys.account import get_development_account

        return get_development_account(dev_account)
    if key_file is not None and dev_account is None:
        from subnet.operator.passwords import open_keystore

        return open_keystore(key_file, password_file)
    raise UsageError(
        "a signing account is needed, from one source",
        "give --key-file FILE, or --dev-account NAME on a development chain",
    )


def choose_password(password_file: Path | None, *, prompt: str = "New password") -> str:
    """Return the password of a keystore that is made now; typed, it is asked for twice."""
    if password_file is not None:
        from subnet.operator.passwords import read_password

        return read_password(password_file, prompt="")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True))


@asynccontextmanager
async def open_chain(
    url: str, *, dev_account: str | None = None, tip: str = "0"
) -> AsyncIterator[SubstrateChain]:
    """Connect; a development account is refused unless the chain says that it is one."""
    from subnet.chain.development import check_development_chain
    from subnet.chain.substrate import SubstrateChain

    async with SubstrateChain.open(url, tip=parse_amount(tip)) as chain:
        if dev_account is not None:
            await check_development_chain(chain, url)
        yield chain


async def require_subnet(chain: SubstrateChain, wanted: str) -> SubnetId:
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


def parse_percent(text: str) -> int:
    """Return a percentage as the chain takes shares, 10^18 for 100 %. Raises UsageError."""
    units = parse_amount(text)
    if units > 100 * 10**DECIMALS:
        raise UsageError(f"{text!r} is more than 100 %", "write a percentage, as 12.5")
    return units // 100


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


def parse_peer_id(text: str) -> PeerId:
    """Return the peer id. Raises UsageError."""
    from keys.errors import BadPeerId
    from keys.peer import PeerId

    try:
        return PeerId.from_base58(text)
    except BadPeerId as error:
        raise UsageError(
            f"{text!r} is not a peer id: {error}", "write it as 12D3KooW..."
        ) from error


def parse_pair(text: str, *, option: str, form: str) -> tuple[str, str]:
    """Return the two sides of ``A=B``. Raises UsageError."""
    left, equals, right = text.partition("=")
    if not equals or not left or not right:
        raise UsageError(f"{option} {text!r} is not of the form {form}", f"write {option} {form}")
    return left, right
