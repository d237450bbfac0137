"""The options about alerts of a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from subnet.operator.webhook import Webhook

AlertWebhook = Annotated[
    str | None,
    typer.Option(help="https address that alerts are posted to; a file hides it from `ps`."),
]
AlertWebhookFile = Annotated[Path | None, typer.Option(help="File of mode 0600 with that address.")]
AlertWebhookPrivate = Annotated[
    bool,
    typer.Option(
        "--alert-webhook-private",
        help="It may be on this machine or in a private network, and be http.",
    ),
]


def make_webhook(url: str | None, *, file: Path | None, may_be_private: bool) -> Webhook | None:
    """Return where alerts go; None: there are none. Raises UsageError or ConfigError."""
    from subnet.operator.webhook import MAX_URL, parse_webhook

    if url is not None and file is not None:
        raise UsageError(
            "--alert-webhook and --alert-webhook-file exclude each other", "give one of them"
        )
    if file is not None:
        url = _read(file, max_size=MAX_URL)
    if url is None:
        if may_be_private:
            raise UsageError("--alert-webhook-private needs a webhook", "give --alert-webhook URL")
        return None
    return parse_webhook(url, may_be_private=may_be_private)


def _read(path: Path, *, max_size: int) -> str:
    from keys.errors import SecretFileExposed
    from keys.secret_file import read_secret_file

    try:
        return read_secret_file(path, max_size=max_size).decode("utf-8").strip()
    except SecretFileExposed as error:
        raise ConfigError(f"the webhook file {error.problem}", error.fix) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the webhook file {path}: {error}", "name a text file"
        ) from error
