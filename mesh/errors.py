"""What can go wrong between peers and models.

MeshError
├── TransportError          the peer-to-peer network cannot be used from here
│   └── DaemonFailed        our own p2pd ended, hangs or cannot be started
├── NoPeerAnswers(failures) none of the peers to dial tells about the network
├── RecordRefused           a record that the policy does not admit (the author's fault)
├── PeerError(peer_id)      another peer's fault, or its absence
│   ├── PeerUnreachable
│   ├── PeerTimeout
│   ├── PeerRefusal(reason) it answered no, and said why
│   ├── PeerMisbehaved      a bad signature, an oversized or malformed answer
│   └── StreamBroken        the stream ended in the middle
│       └── StreamClosed    the peer finished it in good order
├── NoRoute                 no server covers some layer
│   └── NoCapableRoute(what) no server of some layer can do what the request needs
├── SessionLost(reason)     the session cannot be continued
├── PluginError(kind, name)
│   ├── PluginNotFound      no installed package has a plug-in of this name
│   ├── PluginMismatch      another version or other code than the subnet's
│   └── PluginFailed(reason) it raised, gave something impossible, or took too long
├── InvalidRequest(field)   a request that names an impossible thing (the caller's fault)
│   ├── PromptTooLong       the model's context has no room for the prompt alone
│   └── SessionTooLong      no hoster has cache for so many tokens
└── ModelError              the model files cannot be used
    ├── UnknownArchitecture
    ├── QuantisedCheckpoint the weights are stored in a type that is not computed with
    ├── ModelFilesMissing
    │   └── LayerNotOnDisk(layer) the files lack a layer that is to be audited
    ├── DeviceUnavailable   this machine cannot compute on the device that was named
    ├── ManifestMismatch    other weights or numbers than the subnet's
    │   ├── NotCalibrated   a manifest that was made before challenges were calibrated
    │   └── ManifestNotFound neither here nor with a peer
    ├── MarginTooSmall      honest work and cheats at this model cannot be told apart safely
    ├── CalibrationFailed   the measuring itself failed
    ├── InexactArithmetic   this machine does not compute in float32 as others do
    └── LayerRangeOutsideModel
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    # Clients over HTTP know these errors and install no cryptography.
    from keys.peer import PeerId
    from mesh.inference.refusals import RefusalReason


class MeshError(Exception):
    """Base of every error of the mesh package."""


class TransportError(MeshError):
    """The peer-to-peer network cannot be used: no peer answers, or our own daemon failed."""


class DaemonFailed(TransportError):
    """Our own p2p daemon ended, does not answer or cannot be started."""


class RecordRefused(MeshError):
    """The policy does not admit a record. ``reason`` is a stable short word."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class PeerError(MeshError):
    """Another peer failed us."""

    def __init__(self, peer_id: PeerId, message: str) -> None:
        super().__init__(f"peer {peer_id}: {message}")
        self.peer_id = peer_id


class PeerUnreachable(PeerError):
    """The peer cannot be dialled."""


class PeerTimeout(PeerError):
    """The peer did not answer in time."""


class PeerRefusal(PeerError):
    """The peer answered no. ``reason`` is a stable short word such as ``busy``."""

    def __init__(self, peer_id: PeerId, reason: str, detail: str = "") -> None:
        super().__init__(peer_id, f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class PeerMisbehaved(PeerError):
    """The peer sent something that an honest peer does not send."""


class NoPeerAnswers(MeshError):
    """None of the peers to dial tells about the network. ``failures`` has one error for each."""

    def __init__(self, failures: Sequence[PeerError]) -> None:
        listed = "; ".join(str(failure) for failure in failures)
        super().__init__(f"no initial peer answers: {listed}")
        self.failures = tuple(failures)


class StreamBroken(PeerError):
    """The stream ended in the middle."""


class StreamClosed(StreamBroken):
    """The peer finished the stream in good order."""


class NoRoute(MeshError):
    """No chain of servers covers every layer. ``uncovered`` are half-open ranges."""

    def __init__(self, uncovered: tuple[tuple[int, int], ...]) -> None:
        ranges = ", ".join(f"{start}:{end}" for start, end in uncovered)
        super().__init__(f"no server for blocks {ranges}")
        self.uncovered = uncovered


class NoCapableRoute(NoRoute):
    """The layers are served, but by no server that says that it can do ``what``."""

    def __init__(self, uncovered: tuple[tuple[int, int], ...], what: str) -> None:
        super().__init__(uncovered)
        self.what = what

    def __str__(self) -> str:
        ranges = ", ".join(f"{start}:{end}" for start, end in self.uncovered)
        return f"no server of blocks {ranges} {self.what}"


class SessionLost(MeshError):
    """A session cannot be continued. ``reason`` says why the last route that was tried failed."""

    def __init__(self, message: str, reason: RefusalReason) -> None:
        super().__init__(message)
        self.reason = reason


class PluginError(MeshError):
    """A plug-in cannot be used. ``kind`` is scorer, probe or family."""

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(f"{kind} {name}: {message}")
        self.kind = kind
        self.name = name


class PluginNotFound(PluginError):
    """No installed package has a plug-in of this name; ``installed`` names those that are there."""

    def __init__(self, kind: str, name: str, installed: Sequence[str]) -> None:
        known = ", ".join(installed) or "none"
        super().__init__(kind, name, f"no such plug-in is installed; installed are: {known}")


class PluginMismatch(PluginError):
    """The plug-in that is installed is not the one that the subnet's manifest names."""


class PluginFailed(PluginError):
    """The plug-in raised, gave something impossible, or took too long. ``reason`` says which."""

    def __init__(self, kind: str, name: str, reason: str) -> None:
        super().__init__(kind, name, reason)
        self.reason = reason


class InvalidRequest(MeshError):
    """The caller asks for something impossible. ``field`` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class PromptTooLong(InvalidRequest):
    """The prompt alone has more tokens than the model's context; how many was not counted."""

    def __init__(self, field: str, max_tokens: int) -> None:
        super().__init__(field, f"more tokens than the model's context of {max_tokens}")


class SessionTooLong(InvalidRequest):
    """Prompt and answer together need more cache than the hosters have."""

    def __init__(self, tokens: int, room: int) -> None:
        super().__init__(
            "max_new_tokens",
            f"prompt and answer take {tokens} cache tokens, and the hosters have room for {room}; "
            "ask for a shorter answer",
        )


class ModelError(MeshError):
    """The model files cannot be used."""


class UnknownArchitecture(ModelError):
    """config.json names an architecture that is not supported."""


class QuantisedCheckpoint(ModelError):
    """The checkpoint stores numbers in another type than float32, bfloat16 or float16."""


class ModelFilesMissing(ModelError):
    """A file of the model is not there."""


class LayerNotOnDisk(ModelFilesMissing):
    """The model's files on this machine lack ``layer``; the number after the last is the head."""

    def __init__(self, layer: int, detail: str) -> None:
        super().__init__(f"block {layer} cannot be read: {detail}")
        self.layer = layer


class DeviceUnavailable(ModelError):
    """This machine cannot compute on the device."""


class ManifestMismatch(ModelError):
    """The weights or numbers at hand are not the ones of the manifest."""


class NotCalibrated(ManifestMismatch):
    """The manifest states no scales and no margins: an earlier version made it."""


class ManifestNotFound(ManifestMismatch):
    """The manifest that the chain names is neither on this machine nor with a peer."""


class MarginTooSmall(ModelError):
    """A layer at which honest machines and cheats stand too near the tolerance."""


class CalibrationFailed(ModelError):
    """Calibration could not measure: a run of it failed, or a layer gives nothing to measure."""


class InexactArithmetic(ModelError):
    """This machine's float32 answers are off: narrower arithmetic is switched on somewhere."""


class LayerRangeOutsideModel(ModelError):
    """The layer range is not within the model's layers."""
