"""Checks of the chain: its endpoints, this machine's clock against it, and this node's row."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from consensus.phases import compute_schedule, phase_at
from consensus.submission import Submission
from consensus.types import (
    SCORE_ONE,
    Epoch,
    EpochPosition,
    NodeClass,
    SubnetId,
    compute_epoch_position,
)
from keys.account import format_account_id, parse_account_id
from keys.errors import KeysError
from keys.keystore import read_keystore_account
from mesh.errors import ModelError
from subnet.account.amounts import format_amount
from subnet.account.money import MIN_HOTKEY_BALANCE, fetch_stake
from subnet.account.registration import (
    TENSOR,
    RegisteredNode,
    fetch_registered_node,
    read_at_head,
)
from subnet.chain.block_time import fetch_block_time_ms
from subnet.chain.manifest_hash import parse_manifest_hash
from subnet.doctor.finding import Finding, failed, passed, skipped, warned
from subnet.doctor.subject import Subject
from subnet.epoch.interfaces import BlockInfo
from subnet.errors import ChainError, ConfigError
from subnet.operator.status import MAX_HEAD_AGE_BLOCKS

if TYPE_CHECKING:
    from subnet.chain.substrate import SubstrateChain

ENDPOINT_TIMEOUT_S = 20.0
MAX_LAG_BLOCKS = 2
SLOW_ANSWER_S = 1.0
MAX_SLOW_CLOCK_S = 3.0
"""A block that is so far in the future was not made there: this clock is slow."""
LOW_BALANCE = TENSOR // 100
NO_ROW = "no row of this node is known: see the check registration"


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """One address of the chain: what it serves, or why it does not."""

    url: str
    genesis: bytes = b""
    head: BlockInfo | None = None
    latency_s: float = 0.0
    problem: str = ""


async def check_endpoints(subject: Subject) -> Finding:
    """Each endpoint serves the same chain, is not behind the others, and answers soon."""
    urls = subject.facts.chain_urls
    found = await asyncio.gather(*(look_at(url) for url in urls))
    working = [one for one in found if one.head is not None]
    if not working:
        return failed(
            f"no endpoint answers: {found[0].problem}",
            "check --chain (or MESH_CHAIN) and that the chain is running",
        )
    best = max(one.head.number for one in working if one.head is not None)
    described = "; ".join(_describe_endpoint(one, best) for one in found)
    others = [one for one in working if one.genesis != working[0].genesis]
    if others:
        return failed(
            f"{show_url(others[0].url)} serves another chain than {show_url(working[0].url)}",
            "leave it out of --chain",
        )
    bad = [one for one in found if _is_bad(one, best)]
    if bad:
        return warned(described, f"replace {show_url(bad[0].url)} in --chain, or wait for it")
    if len(found) == 1 and not _is_local(urls[0]):
        return warned(
            f"{described}; there is no other to go to when it fails",
            "give --chain two addresses, with a comma between them",
        )
    return passed(described)


async def check_clock(chain: SubstrateChain, subject: Subject) -> Finding:
    """This machine's clock agrees with the chain's newest block: else the node abstains."""
    head = await chain.fetch_head()
    age_s = time.time() - head.timestamp_s
    block_s = await fetch_block_time_ms(chain) / 1000
    allowed_s = subject.params.max_clock_skew_s
    fix = "synchronise the clock: timedatectl set-ntp true"
    if age_s < -MAX_SLOW_CLOCK_S:
        text = f"this clock is {-age_s:.0f} s behind the time of block {head.number}"
        return failed(text, fix) if -age_s > allowed_s else warned(text, fix)
    if age_s > allowed_s:
        return failed(
            f"block {head.number} is {age_s:.0f} s old by this clock; a node takes part within "
            f"{allowed_s} s",
            f"{fix}; if it is right, the chain makes no blocks or the endpoint is behind",
        )
    if age_s > 2 * block_s + MAX_SLOW_CLOCK_S:
        return warned(f"block {head.number} is {age_s:.0f} s old by this clock", fix)
    return passed(f"block {head.number} is {max(0.0, age_s):.0f} s old by this clock")


async def check_epoch(chain: SubstrateChain, subject: Subject) -> Finding:
    """The chain makes and finalises blocks in time for the epoch's phases."""
    if subject.facts.subnet_id is None:
        return skipped("no subnet is known", "give --subnet, or register the node")
    position = await fetch_position(chain, subject)
    if position is None:
        return warned("the subnet has no epochs yet", "its owner activates it")
    head = await chain.fetch_head()
    target_s = await fetch_block_time_ms(chain) / 1000
    age_s = time.time() - head.timestamp_s
    if age_s > MAX_HEAD_AGE_BLOCKS * target_s:
        return failed(
            f"the chain has stood at block {head.number} for {age_s:.0f} s",
            "name an endpoint with --chain that is synchronised",
        )
    schedule = compute_schedule(position.length, subject.params)
    lag = head.number - await chain.fetch_finalised_number()
    text = (
        f"epoch {position.epoch}, block {position.offset} of {position.length}, "
        f"{phase_at(position, schedule).value}; finality is {lag} blocks behind, "
        f"{schedule.finality_deadline} are too many"
    )
    if lag >= schedule.finality_deadline:
        return failed(text, "wait: nodes sit an epoch out whose first block is final too late")
    if 2 * lag >= schedule.finality_deadline:
        return warned(text, "watch it: an epoch whose first block is final too late is lost")
    return passed(text)


async def check_registration(chain: SubstrateChain, subject: Subject) -> Finding:
    """The chain has this node, in an active subnet, under this peer id and this hotkey."""
    facts = subject.facts
    if facts.peer_id is None:
        return skipped("without an identity there is nothing to look for", "see the check identity")
    row = await fetch_row(chain, subject)
    if row is None or facts.subnet_id is None:
        return failed(
            f"no node with peer id {facts.peer_id} is registered",
            "register it with `mesh chain register-node`, or see `mesh chain onboard`",
        )
    name = f"node {row.node_id} of subnet {facts.subnet_id}"
    if row.peer_id != facts.peer_id:
        return failed(
            f"{name} is registered to peer {row.peer_id}, and this identity is {facts.peer_id}",
            "name the identity that was registered, or register this one",
        )
    hotkey = _read_hotkey(subject)
    if hotkey is not None and hotkey != row.hotkey:
        return failed(
            f"{name} is registered with hotkey {format_account_id(row.hotkey)}, "
            f"and the keystore is of {format_account_id(hotkey)}",
            "name the registered hotkey's keystore with --hotkey-path",
        )
    subnet = await chain.fetch_subnet(facts.subnet_id)
    if subnet is None or not subnet.is_active:
        return warned(f"{name}; the subnet is not active", "its owner activates it")
    return passed(f"{name}, in an active subnet")


async def check_class(chain: SubstrateChain, subject: Subject) -> Finding:
    """The chain counts the node among those that are paid, and whose voice counts."""
    row = await fetch_row(chain, subject)
    if row is None:
        return skipped(NO_ROW)
    if row.is_queued:
        return warned(
            "queued: no roster has the node, and it earns nothing yet",
            f"`mesh chain queue --subnet {subject.facts.subnet_id}` says when its turn comes",
        )
    match row.node_class:
        case NodeClass.VALIDATOR:
            return passed("Validator: paid, elected, and its voice counts")
        case NodeClass.INCLUDED:
            return passed("Included: scored and paid; it may attest once it is a Validator")
        case _:
            return warned(
                f"{row.node_class.name.capitalize()}: not scored yet",
                "keep it running: the chain promotes nodes that are in its proposals",
            )


async def check_stake(chain: SubstrateChain, subject: Subject) -> Finding:
    """The stake is not below the subnet's minimum."""
    row = await fetch_row(chain, subject)
    if row is None:
        return skipped(NO_ROW)
    subnet_id = subject.facts.subnet_id
    assert subnet_id is not None
    stake = await fetch_stake(chain, row.hotkey, subnet_id)
    least = int(await read_at_head(chain, "Network.SubnetMinStakeBalance", subnet_id, default=True))
    text = f"{_tensor(stake)} staked, {_tensor(least)} needed"
    if stake < least:
        command = (
            f"`mesh chain add-stake --subnet {subnet_id} --node {row.node_id} --hotkey"
            f" {format_account_id(row.hotkey)} --amount {format_amount(least - stake)}`"
        )
        return failed(text, f"{command}, with --key-file of the coldkey")
    return passed(text)


async def check_balance(chain: SubstrateChain, subject: Subject) -> Finding:
    """The hotkey can pay the fee that is withheld for a proposal or attestation."""
    if subject.facts.is_unpaid:
        return skipped("an --unpaid node signs nothing on the chain")
    row = await fetch_row(chain, subject)
    hotkey = _read_hotkey(subject) if row is None else row.hotkey
    if hotkey is None:
        return skipped("no hotkey is known", "start the node with --hotkey-path FILE")
    balance = await chain.fetch_balance(hotkey)
    text = f"{format_account_id(hotkey)} has {_tensor(balance)}"
    address = format_account_id(hotkey)
    fix = f"mesh chain transfer --to {address} --amount 0.1 --key-file COLDKEY"
    if balance < MIN_HOTKEY_BALANCE:
        return failed(f"{text}: proposals and attestations are refused", fix)
    return warned(text, fix) if balance < LOW_BALANCE else passed(text)


async def check_score(chain: SubstrateChain, subject: Subject) -> Finding:
    """The last proposal has a row of this node, above zero."""
    facts, row = subject.facts, await fetch_row(chain, subject)
    if row is None or facts.subnet_id is None:
        return skipped(NO_ROW)
    now = await fetch_position(chain, subject)
    if row.is_queued or now is None:
        return skipped("the node is not in a roster yet")
    found = await _find_proposal(chain, facts.subnet_id, now.epoch)
    if found is None:
        return warned(
            "no validator proposed scores in this epoch or the last one, so no node was paid",
            "see `mesh why` for the reason",
        )
    epoch, submission = found
    scored = max(0, epoch - 1)
    fix, text = f"see `mesh why {scored}`", f"epoch {scored}, proposed in {epoch}"
    # The first of two rows for one node is the one that is paid.
    score = dict(reversed(submission.scores)).get(row.node_id)
    if score is None:
        return warned(f"{text}: no row of this node", fix)
    text = f"{text}: {score / SCORE_ONE:.6f}"
    return passed(text) if score else warned(text, fix)


async def check_manifest(chain: SubstrateChain, subject: Subject) -> Finding:
    """The model at hand has the manifest that the chain names."""
    facts = subject.facts
    if facts.subnet_id is None:
        return skipped("no subnet is known", "give --subnet, or register the node")
    subnet = await chain.fetch_subnet(facts.subnet_id)
    if subnet is None:
        return failed(f"there is no subnet {facts.subnet_id}", "check --subnet and --chain")
    try:
        wanted = parse_manifest_hash(subnet.misc, subnet_id=facts.subnet_id)
    except ConfigError as error:
        return failed(str(error), error.hint)
    named = f"{wanted.hex()[:16]}…"
    if facts.model is None:
        return skipped(f"the chain names {named}; which model is here is not known", "name MODEL")
    try:
        return await asyncio.to_thread(_compare_manifest, facts.model, wanted, subject)
    except (ModelError, OSError) as error:
        return failed(str(error), "name the model, in the revision that the subnet serves")


def _compare_manifest(model: str, wanted: bytes, subject: Subject) -> Finding:
    from mesh.model.files import resolve_known_model
    from subnet.hosting.manifest import MANIFEST_FILES, find_manifest, read_manifest_file

    folder = resolve_known_model(model)
    kept_in = subject.facts.folder or subject.facts.data_dir
    named = f"{wanted.hex()[:16]}…"
    if find_manifest(folder, manifest_hash=wanted, kept_in=kept_in) is not None:
        return passed(f"{named}, as the chain names it")
    if any(read_manifest_file(folder.path / name) for name in MANIFEST_FILES.values()):
        return failed(
            f"the manifest beside {folder.path} is not {named}, which the chain names",
            "name the model, in the revision and --quant-type that the subnet serves",
        )
    return warned(
        f"{named} is not on this machine: the node asks peers for it when it starts",
        "copy the file that the subnet's owner has into the model's folder",
    )


async def _find_proposal(
    chain: SubstrateChain, subnet_id: SubnetId, epoch: Epoch
) -> tuple[Epoch, Submission] | None:
    """Return the proposal of this epoch or the one before, and in which it was made."""
    for candidate in (epoch, Epoch(max(0, epoch - 1))):
        submission = await chain.fetch_submission(subnet_id, candidate)
        if submission is not None:
            return candidate, submission
    return None


async def fetch_position(chain: SubstrateChain, subject: Subject) -> EpochPosition | None:
    """Return where the chain stands in the subnet's epochs; None before it has any."""
    subnet_id = subject.facts.subnet_id
    subnet = None if subnet_id is None else await chain.fetch_subnet(subnet_id)
    if subnet is None or subnet.slot is None:
        return None
    head, info = await chain.fetch_head(), await chain.fetch_info()
    return compute_epoch_position(head.number, slot=subnet.slot, epoch_length=info.epoch_length)


def show_url(url: str) -> str:
    """Return an address without what may be a token: no user, path or query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}"


async def look_at(url: str) -> EndpointReport:
    """Ask one endpoint what it serves, and how soon it answers."""
    from subnet.chain.substrate import SubstrateChain

    try:
        async with asyncio.timeout(ENDPOINT_TIMEOUT_S), SubstrateChain.open(url) as chain:
            genesis = (await chain.fetch_info()).genesis_hash
            asked_at = time.monotonic()
            await chain.query(lambda session: session.read_head_hash())
            latency_s = time.monotonic() - asked_at
            return EndpointReport(url, genesis, await chain.fetch_head(), latency_s)
    except TimeoutError:
        return EndpointReport(url, problem=f"no answer within {ENDPOINT_TIMEOUT_S:.0f} s")
    except (ChainError, ConfigError) as error:
        return EndpointReport(url, problem=str(error).replace(url, show_url(url)))


def _describe_endpoint(one: EndpointReport, best: int) -> str:
    if one.head is None:
        return f"{show_url(one.url)} does not serve: {one.problem}"
    lag = best - one.head.number
    behind = f", {lag} blocks behind" if lag else ""
    return f"{show_url(one.url)} at block {one.head.number}{behind}, {one.latency_s * 1000:.0f} ms"


def _is_bad(one: EndpointReport, best: int) -> bool:
    is_away = one.head is None or best - one.head.number > MAX_LAG_BLOCKS
    return is_away or one.latency_s > SLOW_ANSWER_S


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


async def fetch_row(chain: SubstrateChain, subject: Subject) -> RegisteredNode | None:
    """Return the chain's row of this node; None if its ids are not known or it has none."""
    facts = subject.facts
    if facts.subnet_id is None or facts.node_id is None:
        return None
    return await fetch_registered_node(chain, subnet_id=facts.subnet_id, node_id=facts.node_id)


def _read_hotkey(subject: Subject) -> bytes | None:
    """Return the account that the node or the keystore names; None if neither does."""
    facts = subject.facts
    if facts.hotkey is not None:
        return parse_account_id(facts.hotkey)
    path = facts.hotkey_path
    if path is None:
        return None
    try:
        return read_keystore_account(path)
    except KeysError:
        return None


def _tensor(units: int) -> str:
    return f"{units / TENSOR:.9f}".rstrip("0").rstrip(".") + " TENSOR"
