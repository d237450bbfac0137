"""``mesh receipt``: what hosters signed about an answer of theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subnet.cli.console import emit, say
from subnet.cli.options import AsJson
from subnet.errors import ConfigError

if TYPE_CHECKING:
    from mesh.client.receipt_check import CheckedPart, CheckedReceipt

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Check what hosters signed about an answer (X-Mesh-Receipt: true).",
)


@app.callback()
def receipt() -> None:
    """Keep the word ``check``, although it is the only one so far."""


@app.command("check")
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A receipt, or the gateway's answer with it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Check signatures, that each hop received what the one before sent, prompt and tokens.

    It shows which hosters say that they computed the answer, and not that they computed it rightly.
    """
    from mesh.client.receipt_check import ReceiptRefused, check_receipt, read_receipts

    try:
        found = [check_receipt(one) for one in read_receipts(_read(file))]
    except ReceiptRefused as error:
        raise ConfigError(
            f"the receipt does not hold: {error}",
            "use the file as the gateway gave it, or do not rely on this answer",
        ) from None
    if as_json:
        emit(json.dumps({"receipts": [_describe(one) for one in found]}))
        return
    for one in found:
        _show(one)


def _read(file: Path) -> bytes:
    from mesh.client.receipts import MAX_RECEIPT_BYTES

    try:
        with file.open("rb") as opened:
            return opened.read(MAX_RECEIPT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", "name the file") from None


def _describe(checked: CheckedReceipt) -> dict[str, Any]:
    return {
        "complete": checked.is_complete,
        "disclosed": checked.is_disclosed,
        "parts": [
            {
                "tokens": [part.start, part.end],
                "hops": [
                    {
                        "peer_id": str(hop.peer_id),
                        "blocks": [hop.span.start, hop.span.end],
                        "signed": _write_time(signed_s),
                    }
                    for hop, signed_s in zip(part.route, part.signed_s, strict=True)
                ],
            }
            for part in checked.parts
        ],
    }


def _show(checked: CheckedReceipt) -> None:
    for part in checked.parts:
        tokens = _name_tokens(part)
        for hop, signed_s in zip(part.route, part.signed_s, strict=True):
            signed = "not signed" if signed_s is None else f"signed {_write_time(signed_s)}"
            emit(
                f"tokens {tokens}\t{hop.peer_id}\tblocks {hop.span.start}:{hop.span.end}\t{signed}"
            )
    what = "signatures, digests of each hop, prompt and tokens hold"
    if not checked.is_disclosed:
        what = "signatures and digests of each hop hold; prompt and tokens are not in the file"
    say(what if checked.is_complete else f"{what}; hosters that were lost signed nothing")


def _name_tokens(part: CheckedPart) -> str:
    return f"{part.start}:{'' if part.end is None else part.end}"


def _write_time(unix_s: int | None) -> str | None:
    """Return a time of a hoster's clock; None for none. What no calendar has stays a number."""
    from mesh.api.key_terms import write_moment

    try:
        return None if unix_s is None else write_moment(unix_s)
    except (ValueError, OverflowError, OSError):
        return str(unix_s)
