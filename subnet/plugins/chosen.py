"""The plug-ins that a subnet's manifest names, as the node uses them.

The chain holds the manifest's hash, so the subnet's owner chooses the plug-ins and every node is
told which code they are. A node that has other code says so and does not start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from consensus.errors import ScorerFailed
from consensus.scorer import HosterWork, Scorer
from mesh.errors import PluginFailed, PluginMismatch, PluginNotFound
from mesh.model.families import FAMILIES
from mesh.model.manifest import MAX_MANIFEST_BYTES, ModelManifest, decode_manifest
from mesh.plugins import PluginKind, PluginStamp, find_plugin
from subnet.plugins.process import CALL_TIMEOUT_S, PluginProcess

SCORER_HINT = (
    "install the version of the scorer that the subnet's manifest names, or ask its author"
)
PPM = 1_000_000
MAX_PPM = 1_000 * PPM
"""A distance is told to a probe in millionths, up to this."""
_DRAW_BITS = 128


@dataclass(frozen=True, slots=True)
class ProbePlugin:
    """A subnet's own probe. Its calls block, and raise PluginFailed."""

    process: PluginProcess

    def make_prompt(self, random: Random, *, vocab_size: int, max_tokens: int) -> tuple[int, ...]:
        """Return the token ids that are asked."""
        draw = random.getrandbits(_DRAW_BITS)
        tokens = tuple(self.process.call("prompt", draw, vocab_size, max_tokens))
        is_possible = 1 <= len(tokens) <= max_tokens and 0 <= min(tokens) <= max(tokens)
        if not is_possible or max(tokens) >= vocab_size:
            raise self._failed(f"its prompt is not 1 to {max_tokens} token ids of the model")
        return tokens

    def is_wrong(self, prompt: Sequence[int], answer: Sequence[int], distance: float) -> bool:
        """Whether the answer, this far from the reference, is to count as a failure."""
        # A distance that is not a number is the largest.
        ppm = int(distance * PPM) if 0 <= distance < MAX_PPM / PPM else MAX_PPM
        return self.process.call("judge", list(prompt), list(answer), ppm) == [1]

    def _failed(self, reason: str) -> PluginFailed:
        return PluginFailed(PluginKind.PROBE, self.process.plugin.stamp.name, reason)


@dataclass(frozen=True, slots=True)
class ChosenPlugins:
    """What a node uses in place of what is built in; None: the built-in one."""

    scorer: Scorer | None = None
    probe: ProbePlugin | None = None


def find_stamps(
    architecture: str, *, scorer: str | None = None, probe: str | None = None
) -> dict[PluginKind, PluginStamp]:
    """Return the stamps of the plug-ins of these names, and of the model's family if it is one.

    Raises PluginNotFound or PluginFailed.
    """
    family = None if architecture in FAMILIES else architecture
    names = {PluginKind.SCORER: scorer, PluginKind.PROBE: probe, PluginKind.FAMILY: family}
    return {kind: find_plugin(kind, name).stamp for kind, name in names.items() if name is not None}


def check_stamps(stated: Mapping[PluginKind, PluginStamp], architecture: str) -> None:
    """Raise PluginMismatch or PluginNotFound unless the manifest's plug-ins are those installed."""
    family = find_stamps(architecture).get(PluginKind.FAMILY)
    if family is not None and PluginKind.FAMILY not in stated:
        raise PluginMismatch(
            PluginKind.FAMILY, family.name, "the subnet's manifest names no such plug-in"
        )
    for kind, stamp in stated.items():
        try:
            found = find_plugin(kind, stamp.name).stamp
        except PluginNotFound as error:
            raise PluginMismatch(
                kind,
                stamp.name,
                f"the subnet's manifest names version {stamp.version}, "
                "and this node has no such plug-in",
            ) from error
        if found != stamp:
            raise PluginMismatch(
                kind,
                stamp.name,
                f"the subnet's manifest names version {stamp.version} with digest "
                f"{stamp.digest[:12]}, this node has {found.version} with {found.digest[:12]}",
            )


@contextmanager
def open_plugins(
    stated: Mapping[PluginKind, PluginStamp], *, timeout_s: float = CALL_TIMEOUT_S
) -> Iterator[ChosenPlugins]:
    """Start the scorer and the probe of a manifest. Raises PluginFailed if one cannot be imported.

    Call ``check_stamps`` first.
    """
    processes = {
        kind: PluginProcess(find_plugin(kind, stamp.name), timeout_s=timeout_s)
        for kind, stamp in stated.items()
        if kind is not PluginKind.FAMILY
    }
    try:
        for process in processes.values():
            process.start()
        scorer, probe = processes.get(PluginKind.SCORER), processes.get(PluginKind.PROBE)
        yield ChosenPlugins(
            scorer=None if scorer is None else make_scorer(scorer),
            probe=None if probe is None else ProbePlugin(probe),
        )
    finally:
        for process in processes.values():
            process.close()


def make_scorer(process: PluginProcess) -> Scorer:
    """Return the plug-in as the rule that ``consensus.epoch`` calls."""

    def score(hosters: Sequence[HosterWork]) -> Sequence[int]:
        try:
            return process.call("score", [_describe(work) for work in hosters])
        except PluginFailed as error:
            raise ScorerFailed(str(error)) from error

    return score


def _describe(work: HosterWork) -> dict[str, Any]:
    return {**asdict(work), "built_in": work.built_in}


@contextmanager
def open_kept_scorer(path: Path) -> Iterator[Scorer | None]:
    """Open the scorer of the manifest that a node kept at ``path``; None if it names none.

    Raises PluginMismatch, PluginFailed or ModelError.
    """
    manifest = read_kept(path)
    stated = {} if manifest is None else manifest.plugins
    stated = {kind: stamp for kind, stamp in stated.items() if kind is PluginKind.SCORER}
    if not stated or manifest is None:
        yield None
        return
    check_stamps(stated, next(iter(FAMILIES)))
    with open_plugins(stated) as chosen:
        yield chosen.scorer


@contextmanager
def open_named_scorer(name: str | None) -> Iterator[Scorer | None]:
    """Open the installed scorer of this name; None opens none. Raises PluginError."""
    if name is None:
        yield None
        return
    stamp = find_plugin(PluginKind.SCORER, name).stamp
    with open_plugins({PluginKind.SCORER: stamp}) as chosen:
        yield chosen.scorer


def read_kept(path: Path) -> ModelManifest | None:
    """Return the manifest in this file; None if there is no file. Raises ModelError."""
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        return None
    return decode_manifest(path.read_bytes())
