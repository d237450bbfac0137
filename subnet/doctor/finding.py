"""What one check found: its status, what was seen, and one fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_TEXT = 2000


class CheckStatus(StrEnum):
    """PASS; WARN: it works and may cost something; FAIL: it keeps the node from earning."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    SKIP = "SKIP"


@dataclass(frozen=True, slots=True)
class Finding:
    """``detail`` is a sentence; ``fix`` is empty where there is nothing to do."""

    status: CheckStatus
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The finding of the check called ``name``, and how many seconds it took."""

    name: str
    finding: Finding
    seconds: float

    def to_json(self) -> dict[str, Any]:
        finding = self.finding
        return {
            "check": self.name,
            "verdict": finding.status.value,
            "detail": finding.detail,
            "fix": finding.fix,
            "seconds": round(self.seconds, 3),
        }


def passed(detail: str) -> Finding:
    return Finding(CheckStatus.PASS, detail)


def warned(detail: str, fix: str) -> Finding:
    return Finding(CheckStatus.WARN, detail, fix)


def failed(detail: str, fix: str) -> Finding:
    return Finding(CheckStatus.FAIL, detail, fix)


def skipped(detail: str, fix: str = "") -> Finding:
    return Finding(CheckStatus.SKIP, detail, fix)


def encode_finding(finding: Finding) -> dict[str, str]:
    """Return a finding as it travels over the control socket."""
    return {
        "verdict": finding.status.value,
        "detail": finding.detail[:MAX_TEXT],
        "fix": finding.fix[:MAX_TEXT],
    }


def decode_finding(raw: Mapping[str, Any]) -> Finding:
    """Undo ``encode_finding``. Raises ValueError."""
    texts = [raw.get(name) for name in ("verdict", "detail", "fix")]
    if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts):
        raise ValueError("a finding has three texts")
    status, detail, fix = map(str, texts)
    return Finding(CheckStatus(status), detail, fix)
