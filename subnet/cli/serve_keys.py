"""The API keys of ``mesh serve``: made, revoked and listed, and what each of them used."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subnet.cli.console import emit, say
from subnet.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from mesh.api.key_terms import KeyTerms
    from mesh.api.keys_file import ApiKey
    from mesh.api.usage_file import KeyUsage

USAGE_HINT = "correct what the message names, or name another --usage-file"


def make_terms(tokens_per_day: int | None, expires: str | None, models: Sequence[str]) -> KeyTerms:
    """Return the terms of a key to make. Raises UsageError."""
    from mesh.api.key_terms import KeyTerms, parse_moment
    from mesh.errors import InvalidRequest

    try:
        expires_s = None if expires is None else parse_moment(expires)
    except InvalidRequest as error:
        raise UsageError(f"--{error}", "give the day in UTC, such as 2027-01-31") from None
    return KeyTerms(tokens_per_day, expires_s, tuple(dict.fromkeys(models)))


def create(path: Path, name: str, *, rate: tuple[int, int], terms: KeyTerms, as_json: bool) -> None:
    """Make a key and show it; ``rate`` is requests a minute, and at once."""
    from mesh.api.keys_file import create_key
    from mesh.api.rate_limit import Rate

    key = create_key(path, name, rate=Rate(*rate), terms=terms, now_s=int(time.time()))
    emit(json.dumps({"name": name, "key": key}) if as_json else key)
    say(f"this is the only time that the key {name} is shown; {path} holds its hash")


def revoke(path: Path, name: str, *, as_json: bool) -> None:
    """End a key."""
    from mesh.api.keys_file import revoke_key

    revoke_key(path, name, now_s=int(time.time()))
    if as_json:
        emit(json.dumps({"name": name, "state": "revoked"}))
    say(f"the key {name} is revoked; a running gateway refuses it within a second")


def show(path: Path, *, as_json: bool) -> None:
    """List the keys by name."""
    from mesh.api.key_terms import describe_terms
    from mesh.api.keys_file import read_keys

    now_s = time.time()
    keys = read_keys(path)
    if as_json:
        emit(json.dumps({"keys": [_describe_key(key, now_s) for key in keys]}))
        return
    for key in keys:
        rate = (f"{key.rate.per_minute}/min", f"burst {key.rate.burst}")
        emit("\t".join((key.name, _name_state(key, now_s), *rate, *describe_terms(key.terms))))


def _name_state(key: ApiKey, now_s: float) -> str:
    if key.revoked_s is not None:
        return "revoked"
    return "expired" if key.terms.is_expired(now_s=now_s) else "active"


def _describe_key(key: ApiKey, now_s: float) -> dict[str, Any]:
    """Return a key for JSON; terms that it has not are left out."""
    from mesh.api.key_terms import write_moment

    row: dict[str, Any] = {
        "name": key.name,
        "state": _name_state(key, now_s),
        "per_minute": key.rate.per_minute,
        "burst": key.rate.burst,
    }
    if key.terms.tokens_per_day is not None:
        row["tokens_per_day"] = key.terms.tokens_per_day
    if key.terms.expires_s is not None:
        row["expires"] = write_moment(key.terms.expires_s)
    if key.terms.models:
        row["models"] = list(key.terms.models)
    return row


def show_usage(keys_file: Path, usage_file: Path | None, *, as_json: bool) -> None:
    """Show what each key used on each day, and what is left of a budget today."""
    from mesh.api.errors import UsageFileUnusable
    from mesh.api.keys_file import read_keys
    from mesh.api.usage_file import locate_usage, read_usage

    keys = read_keys(keys_file)
    try:
        used = read_usage(usage_file or locate_usage(keys_file))
    except UsageFileUnusable as error:
        raise ConfigError(
            str(error), "run the gateway with this --keys-file first, or name its --usage-file"
        ) from None
    rows = list(_list_usage(keys, used, now_s=time.time()))
    if as_json:
        emit(json.dumps({"usage": rows}))
        return
    emit("\t".join(("day", "key", "requests", "prompt", "completion", "left")))
    for row in rows:
        left = row["left"]
        counts = (row["requests"], row["prompt_tokens"], row["completion_tokens"])
        told = (row["day"], row["name"], *counts, "" if left is None else left)
        emit("\t".join(str(field) for field in told))


def _list_usage(
    keys: Sequence[ApiKey], used: dict[tuple[str, int], KeyUsage], *, now_s: float
) -> Iterator[dict[str, Any]]:
    """Yield the rows, by day and name: those of the file, and today's of every key with a budget.

    ``left`` is what the key may still use today; None on earlier days and without a budget.
    """
    from mesh.api.key_terms import write_moment
    from mesh.api.usage_file import NOTHING_USED, SECONDS_PER_DAY, compute_day

    today = compute_day(now_s)
    budgets = {
        key.name: key.terms.tokens_per_day
        for key in keys
        if key.terms.tokens_per_day is not None and _name_state(key, now_s) == "active"
    }
    rows = {(name, today): NOTHING_USED for name in budgets} | used
    for name, day in sorted(rows, key=lambda place: (place[1], place[0])):
        counts = rows[name, day]
        budget = budgets.get(name) if day == today else None
        yield {
            "name": name,
            "day": write_moment(day * SECONDS_PER_DAY)[:10],
            "requests": counts.requests,
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "left": None if budget is None else max(0, budget - counts.tokens),
        }
