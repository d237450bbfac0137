"""``mesh why``: the receipt of a score, computed again and compared with the chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.cli.console import emit, say
from subnet.cli.options import AnySubnet, DataDir
from subnet.cli.subnets import find_own_subnet_id
from subnet.errors import ConfigError, ReceiptInvalid, ReceiptNotKept, UsageError

if TYPE_CHECKING:
    from consensus.types import Epoch, SubnetNodeId
    from subnet.receipts.evidence import EpochEvidence
    from subnet.receipts.recompute import Recomputed
    from subnet.receipts.settlement import ChainAnswer

LAST = "last"


def why(
    epoch: Annotated[
        str, typer.Argument(metavar="EPOCH", help="The scored epoch; the last settled if absent.")
    ] = LAST,
    node: Annotated[
        int | None,
        typer.Argument(metavar="NODE", min=1, help="Any node's id; this machine's if absent."),
    ] = None,
    data_dir: DataDir = None,
    subnet: AnySubnet = None,
    chain: Annotated[
        str | None,
        typer.Option(
            envvar="MESH_CHAIN", help="Compare with this chain too, and say what it paid."
        ),
    ] = None,
    share: Annotated[
        Path | None, typer.Option(help="Write a file that others can check with --check.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Check and explain such a file instead of this machine's.")
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="The plug-in that scores this subnet, for --check; else the kept manifest's."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say in words why a node got its score, computed again from signed records."""
    from consensus.types import SubnetNodeId
    from subnet.receipts.folders import check_node

    if share is not None and check is not None:
        raise UsageError("--share and --check exclude each other", "give one of them")
    if share is not None and share.exists():
        raise UsageError(f"{share} exists already", "give --share a new file")
    own = find_own_subnet_id(subnet, chain, data_dir)
    try:
        evidence, again = _open(
            epoch, node, data_dir=data_dir, subnet=own, check=check, scorer=scorer
        )
    except ReceiptNotKept:
        if chain is None or share is not None:
            raise
        emit(_ask_alone(chain, epoch, node, data_dir=data_dir, subnet=own, as_json=as_json))
        return
    about = evidence.about if node is None else SubnetNodeId(node)
    check_node(evidence, about)
    answer = None if chain is None else _ask(chain, evidence, about, must_answer=check is not None)
    if check is not None:
        _tell_checked(check, evidence, answer)
    if share is not None:
        _share(share, evidence, again, about)
    emit(_describe(evidence, again, about, answer, as_json=as_json))


def _open(
    epoch: str,
    node: int | None,
    *,
    data_dir: Path | None,
    subnet: int | None,
    check: Path | None,
    scorer: str | None,
) -> tuple[EpochEvidence, Recomputed]:
    """Return what is explained, its scores computed again. Raises ConfigError or ReceiptError."""
    from platformdirs import user_data_path

    from consensus.errors import ScorerFailed
    from subnet.hosting.manifest import MANIFEST_FILES
    from subnet.plugins.chosen import SCORER_HINT, open_kept_scorer, open_named_scorer
    from subnet.receipts.checking import open_shared
    from subnet.receipts.folders import choose_folder, find_folders, load_evidence
    from subnet.receipts.recompute import check_records, recompute
    from subnet.receipts.store import read_file

    wanted = _parse_epoch(epoch)
    if check is None:
        folders = find_folders(data_dir or user_data_path("mesh"), subnet)
        folder = choose_folder(folders, node, wanted)
        evidence = load_evidence(folder, wanted)
        check_records(evidence)
        opened = (
            open_kept_scorer(folder.path / MANIFEST_FILES["none"])
            if scorer is None
            else open_named_scorer(scorer)
        )
        try:
            with opened as rule:
                return evidence, recompute(evidence, rule)
        except ScorerFailed as error:
            raise ConfigError(str(error), SCORER_HINT) from error
    with open_named_scorer(scorer) as rule:
        try:
            evidence, again = open_shared(read_file(check), rule)
        except ScorerFailed as error:
            raise ConfigError(str(error), SCORER_HINT) from error
    if wanted not in (None, evidence.epoch):
        raise UsageError(f"{check} is about epoch {evidence.epoch}", "leave EPOCH out")
    return evidence, again


def _parse_epoch(text: str) -> Epoch | None:
    """Return the epoch, None for the last one. Raises UsageError."""
    from consensus.types import Epoch

    if text == LAST:
        return None
    if not text.isdecimal() or len(text) > 10:
        raise UsageError(f"{text!r} is not an epoch", f"give its number, or `{LAST}`")
    return Epoch(int(text))


def _ask(
    url: str, evidence: EpochEvidence, about: SubnetNodeId, *, must_answer: bool
) -> ChainAnswer | None:
    """Return what the chain says; None, with a notice, if it may and does not answer."""
    import asyncio

    from subnet.account.receipt_check import ask_chain
    from subnet.chain.substrate import SubstrateChain
    from subnet.errors import ChainUnavailable

    async def work() -> ChainAnswer:
        async with SubstrateChain.open(url) as chain:
            return await ask_chain(chain, evidence, about)

    try:
        return asyncio.run(work())
    except ChainUnavailable as error:
        if must_answer:
            raise
        say(f"the chain does not answer: {error}")
        say(f"compared with the proposal as node {evidence.kept_by} had read it")
        return None


def _ask_alone(
    url: str,
    epoch: str,
    node: int | None,
    *,
    data_dir: Path | None,
    subnet: int | None,
    as_json: bool,
) -> str:
    """Return what the chain alone says of an epoch that no node here kept."""
    import asyncio

    from platformdirs import user_data_path

    from consensus.types import Epoch, SubnetNodeId
    from subnet.account.receipt_check import ask_chain_alone
    from subnet.chain.substrate import SubstrateChain
    from subnet.receipts.describe import describe_chain_row, render_chain_row
    from subnet.receipts.folders import choose_folder, find_folders
    from subnet.receipts.settlement import ChainRow

    folder = choose_folder(find_folders(data_dir or user_data_path("mesh"), subnet), node, None)
    node_id = folder.node_id if node is None else SubnetNodeId(node)

    async def work() -> ChainRow:
        async with SubstrateChain.open(url) as chain:
            return await ask_chain_alone(chain, folder.subnet_id, Epoch(int(epoch)), node_id)

    row = asyncio.run(work())
    return json.dumps(render_chain_row(row)) if as_json else describe_chain_row(row)


def _tell_checked(path: Path, evidence: EpochEvidence, answer: ChainAnswer | None) -> None:
    """Say what of a file holds. Raises ReceiptInvalid if the chain contradicts it."""
    if answer is not None and answer.differences:
        raise ReceiptInvalid(f"{path} contradicts the chain: {answer.differences[0]}")
    say(f"{path}: {len(evidence.records)} signatures hold, and the scores follow from them")
    if answer is None:
        say(
            "not checked without --chain: the proposal, the nodes with their keys, and the hashes"
            " of blocks"
        )
    say(f"when a record was first seen is what node {evidence.kept_by} says")


def _share(path: Path, evidence: EpochEvidence, again: Recomputed, about: SubnetNodeId) -> None:
    from keys.errors import KeyFileExists
    from keys.secret_file import create_secret_file
    from subnet.receipts.checking import check_whole
    from subnet.receipts.encoding import encode_evidence
    from subnet.receipts.explain import compare

    check_whole(again, compare(evidence, again)[0])
    raw = encode_evidence(evidence.share(about))
    try:
        create_secret_file(path, raw)
    except KeyFileExists as error:
        raise UsageError(f"{path} exists already", "give --share a new file") from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", "give --share a file in another folder"
        ) from error
    say(f"{path}: {len(raw)} bytes; check it with `mesh why --check {path}`")


def _describe(
    evidence: EpochEvidence,
    again: Recomputed,
    about: SubnetNodeId,
    answer: ChainAnswer | None,
    *,
    as_json: bool,
) -> str:
    from subnet.receipts.describe import describe_receipt, render_receipt
    from subnet.receipts.explain import make_receipt

    receipt = make_receipt(evidence, again, about)
    num_layers = evidence.shape.num_layers
    if as_json:
        return json.dumps(render_receipt(receipt, num_layers=num_layers, answer=answer))
    tolerance = 2.0**-evidence.params.tolerance_bits
    return describe_receipt(receipt, num_layers=num_layers, tolerance=tolerance, answer=answer)
