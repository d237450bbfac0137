"""Checks of this machine: key files, the data folder, disk, memory, ports and p2pd."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path

import psutil

from keys.errors import (
    IdentityFileMissing,
    IdentityFileMode,
    KeysError,
    KeystoreMissing,
    KeystoreMode,
)
from keys.identity_file import load_identity_file
from keys.keystore import check_keystore
from mesh.errors import DaemonFailed
from mesh.p2p.ports import PortInUse, check_ports_free
from subnet.doctor.finding import Finding, failed, passed, skipped, warned
from subnet.doctor.subject import Subject
from subnet.errors import ConfigError
from subnet.operator.preflight import check_private_directory
from subnet.operator.vitals import LOW_DISK_BYTES

GIB = 1 << 30
MIN_DISK = GIB // 4
MIN_MEMORY, LOW_MEMORY = GIB // 4, GIB
CONNECT_TIMEOUT_S = 5.0
DAEMON_START_S = 30.0
PRIVATE_FILES = ("journal.sqlite", "extrinsics.sqlite", "status.json", "control.sock")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


async def check_identity(subject: Subject) -> Finding:
    """The identity file is there, private, whole, and of the node that runs."""
    path = subject.facts.identity_path
    try:
        key = load_identity_file(path)
    except IdentityFileMissing:
        return failed(
            f"there is no identity at {path}",
            "make one with `mesh keygen --dir keys`, or name yours with --identity-path",
        )
    except IdentityFileMode as error:
        return failed(str(error).partition(": ")[0], f"chmod 600 {path}")
    except KeysError as error:
        return failed(str(error), "restore the file from a backup: it is the node's only key")
    if subject.facts.peer_id not in (None, key.peer_id):
        return failed(
            f"{path} is of peer {key.peer_id}, and the node here is {subject.facts.peer_id}",
            "name the node's own file with --identity-path",
        )
    return passed(f"{key.peer_id}, readable by its owner alone")


async def check_hotkey(subject: Subject) -> Finding:
    """The hotkey's keystore is there and private; the chain row compares its address."""
    path = subject.facts.hotkey_path
    if subject.facts.is_unpaid:
        return skipped("an --unpaid node signs nothing on the chain")
    if path is None and subject.facts.hotkey is not None:
        return passed(f"the node signs as {subject.facts.hotkey}")
    if path is None:
        return warned(
            "no hotkey: the node serves, commits and reveals, but neither proposes nor attests",
            "start it with --hotkey-path FILE",
        )
    try:
        check_keystore(path)
    except KeystoreMissing:
        return failed(f"there is no keystore at {path}", "name it with --hotkey-path")
    except KeystoreMode as error:
        return failed(str(error).partition(": ")[0], f"chmod 600 {path}")
    except KeysError as error:
        return failed(str(error), "restore the keystore from a backup")
    return passed(f"{path}, readable by its owner alone")


async def check_folder(subject: Subject) -> Finding:
    """The data folder can be written, and what it holds is private."""
    facts = subject.facts
    try:
        check_private_directory(facts.data_dir)
    except ConfigError as error:
        return failed(str(error), error.hint)
    if facts.folder is None or not facts.folder.exists():
        return passed(f"{facts.data_dir} can be written; no node has run in it yet")
    for path in (facts.folder, *(facts.folder / name for name in PRIVATE_FILES)):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & _OTHERS:
            mode = "700" if path.is_dir() else "600"
            return failed(f"{path} is open to other users", f"chmod {mode} {path}")
    if not os.access(facts.folder, os.W_OK | os.X_OK):
        return failed(
            f"{facts.folder} cannot be written", "run the node as the user that owns its folder"
        )
    return passed(f"{facts.folder}, private to its owner")


async def check_disk(subject: Subject) -> Finding:
    """The journal's disk has room: a node that cannot write must not sign."""
    place = _find_existing(subject.facts.folder or subject.facts.data_dir)
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free at {place}"
    fix = "free space there, or move the data with --data-dir"
    if free < MIN_DISK:
        return failed(text, fix)
    return warned(text, fix) if free < LOW_DISK_BYTES else passed(text)


async def check_memory(subject: Subject) -> Finding:
    """There is memory left for the cache and for p2pd."""
    free = psutil.virtual_memory().available
    text = f"{free / GIB:.1f} GiB available"
    fix = "serve fewer blocks (--num-blocks) or less cache (--attn-cache-tokens)"
    if free < MIN_MEMORY:
        return failed(text, fix)
    return warned(text, fix) if free < LOW_MEMORY else passed(text)


async def check_ports(subject: Subject) -> Finding:
    """The ports are free before a start; afterwards the node itself listens on them."""
    maddrs = subject.facts.host_maddrs
    if not maddrs:
        return skipped("which ports the node uses is not known", "start it, or give --port")
    if not subject.is_running:
        try:
            check_ports_free(maddrs)
        except PortInUse as error:
            return failed(
                f"cannot listen on {error}", "stop the other process or give another --port"
            )
        return passed(f"free: {', '.join(maddrs)}")
    places = [place for place in map(_parse_tcp, maddrs) if place is not None]
    if not all(port for _, port in places):
        return warned(
            "the port is another one at each start, so what others know of this node goes stale",
            "start it with --port 31330",
        )
    for host, port in places:
        if not await _is_open(host, port):
            return failed(
                f"nothing listens on {host}:{port}, where the node should",
                "look at its log for p2pd, and start it again",
            )
    return passed(f"open: {', '.join(maddrs)}")


async def check_p2pd(subject: Subject) -> Finding:
    """p2pd is there, of a known build, and starts: with a key of its own, without listening."""
    from mesh.p2p.daemon import find_build, try_daemon

    try:
        build = find_build()
        await try_daemon(timeout_s=DAEMON_START_S)
    except (DaemonFailed, OSError) as error:
        return failed(
            f"p2pd does not run: {error}",
            "install hivemind again, and give p2pd memory and the right to be executed",
        )
    if build is None:
        return warned("p2pd starts, but is of an unknown build", "install hivemind from the lock")
    return passed(f"starts; {build.partition(' (')[0]}")


def _find_existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _parse_tcp(maddr: str) -> tuple[str, int] | None:
    """Return where to connect to a listener on this machine; None for what is not TCP."""
    parts = maddr.split("/")
    if len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        return None
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return loopback.get(parts[2], parts[2]), int(parts[4])


async def _is_open(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
