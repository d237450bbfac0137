"""The file of API keys: one line a change, appended and never rewritten.

A key is 256 random bits, so a plain SHA-256 of it is safe to keep; the key itself is shown once
and stored nowhere. The file is created with O_EXCL and mode 0600, each line is fsynced, and a
looser mode is refused. A revoked name is not used again, so logs stay unambiguous.

Terms of a key (its budget, its end, its models) are fields that a line may have. A key without them
is written as earlier versions wrote it, and their files are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mesh.api.errors import (
    KeyNameTaken,
    KeysFileCorrupt,
    KeysFileMissing,
    KeysFileMode,
    UnknownKeyName,
)
from mesh.api.key_terms import MAX_KEY_MODELS, MAX_MODEL_NAME, NO_TERMS, KeyTerms
from mesh.api.limits import MAX_KEYS
from mesh.api.rate_limit import Rate

KEY_PREFIX = "mesh-"
KEY_BYTES = 32
MAX_FILE_BYTES = 1 << 20
DEFAULT_RATE = Rate(per_minute=120, burst=30)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


_ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME)]


class _Created(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    event: Literal["created"] = "created"
    name: str = Field(pattern=_NAME.pattern)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    created_s: int = Field(ge=0)
    per_minute: int = Field(ge=1)
    burst: int = Field(ge=1)
    tokens_per_day: int | None = Field(default=None, ge=1)
    expires_s: int | None = Field(default=None, ge=0)
    models: tuple[_ModelName, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_KEY_MODELS
    )


class _Revoked(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    event: Literal["revoked"] = "revoked"
    name: str = Field(pattern=_NAME.pattern)
    revoked_s: int = Field(ge=0)


_LINE: TypeAdapter[_Created | _Revoked] = TypeAdapter(_Created | _Revoked)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One named key, by its digest. ``revoked_s`` is None while it is valid."""

    name: str
    digest: bytes
    rate: Rate
    created_s: int
    revoked_s: int | None = None
    terms: KeyTerms = NO_TERMS


_Check = Callable[[tuple[ApiKey, ...]], None]


def compute_digest(key: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Return every key, revoked ones too. Raises KeysFileError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise KeysFileMissing(f"there is no keys file {path}") from None
    except OSError as error:
        raise KeysFileCorrupt(f"cannot read {path}: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        _check_mode(path, os.fstat(descriptor))
        content = file.read(MAX_FILE_BYTES + 1)
    return _parse(path, content)


def create_key(
    path: Path, name: str, *, rate: Rate = DEFAULT_RATE, terms: KeyTerms = NO_TERMS, now_s: int
) -> str:
    """Add a key and return it: it is shown only here. Raises KeysFileError or InvalidRequest."""
    terms.check(now_s=now_s)
    if not _NAME.fullmatch(name):
        raise UnknownKeyName("a key's name has 1 to 64 letters, digits, dots, dashes, underscores")
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    line = _Created(
        name=name,
        sha256=compute_digest(key).hex(),
        created_s=now_s,
        per_minute=rate.per_minute,
        burst=rate.burst,
        tokens_per_day=terms.tokens_per_day,
        expires_s=terms.expires_s,
        models=terms.models or None,
    )

    def check(keys: tuple[ApiKey, ...]) -> None:
        if any(known.name == name for known in keys):
            raise KeyNameTaken(f"the name {name} is taken; revoked names are not used again")
        if len(keys) >= MAX_KEYS:
            raise KeyNameTaken(f"the file holds {MAX_KEYS} keys already")

    _append(path, line, check=check, create=True)
    return key


def revoke_key(path: Path, name: str, *, now_s: int) -> None:
    """End a key; a running gateway notices within a second. Raises KeysFileError."""

    def check(keys: tuple[ApiKey, ...]) -> None:
        if not any(known.name == name and known.revoked_s is None for known in keys):
            raise UnknownKeyName(f"no active key is named {name}")

    if not _NAME.fullmatch(name):
        raise UnknownKeyName("no active key has this name")
    _append(path, _Revoked(name=name, revoked_s=now_s), check=check, create=False)


def _append(
    path: Path,
    line: _Created | _Revoked,
    *,
    check: _Check,
    create: bool,
) -> None:
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Another process may make it in between; both append to it then.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise KeysFileMissing(f"there is no keys file {path}") from None
    except OSError as error:
        raise KeysFileCorrupt(f"cannot write {path}: {error.strerror}") from None
    with open(descriptor, "rb+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _check_mode(path, os.fstat(descriptor))
        check(_parse(path, file.read(MAX_FILE_BYTES + 1)))
        file.write(line.model_dump_json(exclude_none=True).encode() + b"\n")
        os.fsync(descriptor)


def _check_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeysFileCorrupt(f"{path} is not a regular file")
    if status.st_mode & 0o077:
        raise KeysFileMode(f"{path} is open to other users; run: chmod 600 {path}")


def _parse(path: Path, content: bytes) -> tuple[ApiKey, ...]:
    if len(content) > MAX_FILE_BYTES:
        raise KeysFileCorrupt(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    if content and not content.endswith(b"\n"):
        raise KeysFileCorrupt(f"the last line of {path} is incomplete; remove that line")
    keys: dict[str, ApiKey] = {}
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            _apply(keys, _LINE.validate_json(text))
        except (ValidationError, ValueError, KeyError):
            # Without the line itself: it holds a digest.
            raise KeysFileCorrupt(f"line {number} of {path} is not a key record") from None
    return tuple(keys.values())


def _apply(keys: dict[str, ApiKey], line: _Created | _Revoked) -> None:
    if isinstance(line, _Created):
        if line.name in keys:
            raise ValueError("created twice")
        rate = Rate(line.per_minute, line.burst)
        terms = KeyTerms(line.tokens_per_day, line.expires_s, line.models or ())
        digest = bytes.fromhex(line.sha256)
        keys[line.name] = ApiKey(line.name, digest, rate, line.created_s, terms=terms)
        return
    keys[line.name] = replace(keys[line.name], revoked_s=line.revoked_s)
