"""The process in which a plug-in runs: one JSON line of integers in, one out.

``python -m subnet.plugins.worker KIND NAME VALUE`` imports the plug-in, answers ``{"ready": []}``
and then each call. What the plug-in prints goes to stderr. The process ends with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, BinaryIO

from mesh.errors import PluginFailed
from mesh.plugins import Plugin, PluginKind, PluginStamp, describe_error, load_plugin

MAX_MEMORY = 1 << 30
"""Bytes of address space beyond what the process has once the plug-in is imported."""
_PR_SET_PDEATHSIG = 1


class NotIntegers(Exception):
    """The plug-in gave something else than what it may give."""


def call_score(plugged: Any, hosters: list[dict[str, Any]]) -> object:
    """Call ``score(hosters)``; each hoster has the fields of ``consensus.scorer.HosterWork``."""
    return plugged([SimpleNamespace(**hoster) for hoster in hosters])


def call_prompt(plugged: Any, draw: int, vocab_size: int, max_tokens: int) -> object:
    """Call ``make_prompt(draw, vocab_size, max_tokens)`` of a probe."""
    return plugged.make_prompt(draw, vocab_size, max_tokens)


def call_judge(plugged: Any, prompt: list[int], answer: list[int], distance_ppm: int) -> object:
    """Call ``is_wrong(prompt, answer, distance_ppm)`` of a probe: 0 or 1."""
    wrong = plugged.is_wrong(tuple(prompt), tuple(answer), distance_ppm)
    if type(wrong) is not bool:
        raise NotIntegers(f"is_wrong gave a {type(wrong).__name__}, not True or False")
    return [int(wrong)]


CALLS: dict[str, Callable[..., object]] = {
    "score": call_score,
    "prompt": call_prompt,
    "judge": call_judge,
}


def answer(plugged: Any, line: bytes) -> dict[str, Any]:
    """Return the reply to one call: ``ok`` with integers, or ``error`` with a reason."""
    request = json.loads(line)
    try:
        given = CALLS[request["call"]](plugged, *request["arguments"])
        return {"ok": check_integers(given)}
    except NotIntegers as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - the plug-in's own code may raise anything
        return {"error": describe_error(error)}


def check_integers(given: object) -> list[int]:
    """Return what the plug-in gave as a list. Raises NotIntegers."""
    if not isinstance(given, list | tuple):
        raise NotIntegers(f"it gave a {type(given).__name__}, not a list of integers")
    for value in given:
        if type(value) is not int:
            raise NotIntegers(f"it gave a {type(value).__name__}, not an integer")
    return list(given)


def bound_memory() -> None:
    """Let the plug-in's own data grow by MAX_MEMORY from here on."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MAX_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def end_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def serve(plugged: Any, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer calls until the pipe closes."""
    for line in requests:
        replies.write(json.dumps(answer(plugged, line)).encode() + b"\n")
        replies.flush()


def main() -> int:
    """Serve the plug-in that the command line names; return the exit code."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kind, name, value = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        plugged = load_plugin(Plugin(PluginKind(kind), PluginStamp(name, "", ""), value))
    except PluginFailed as error:
        replies.write(json.dumps({"error": error.reason}).encode() + b"\n")
        return 1
    bound_memory()
    replies.write(b'{"ok": []}\n')
    replies.flush()
    serve(plugged, sys.stdin.buffer, replies)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
