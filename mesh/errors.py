"""What can go wrong between peers and models.

MeshError
├── TransportError          our own daemon or socket failed
│   └── DaemonUnresponsive  our p2pd runs and does not answer
├── NoPeerAnswers(failures) none of the peers to dial tells about the network
├── RecordRefused           a record that the policy does not admit (the author's fault)
├── PeerError(peer_id)      another peer's fault, or its absence
│   ├── PeerUnreachable
│   ├── PeerTimeout
│   ├── PeerRefusal(reason) it answered no, and said why
│   ├── PeerMisbehaved      a bad signature, an oversized or malformed answer
│   └── StreamBroken        the stream ended in the middle
│       └── StreamClosed    the peer finished it in good order
├── NoRoute                 some layer is served by nobody
├── SessionLost             the session cannot be continued
├── InvalidRequest(field)   a request that names an impossible thing (the caller's fault)
│   └── SessionTooLong      no hoster has cache for so many tokens
├── DeviceUnavailable       the device to compute on is not there
└── ModelError              the model files cannot be used
    ├── UnknownArchitecture
    ├── QuantisedCheckpoint the weights are stored in a type that is not computed with
    ├── ModelFilesMissing
    ├── ManifestMismatch    other weights or numbers than the subnet's
    └── LayerRangeOutsideModel
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    # Clients over HTTP know these errors and install no cryptography.
    from keys.peer import PeerId


class MeshError(Exception):
    """Base of every error of the mesh package."""


class TransportError(MeshError):
    """Our own p2p daemon or socket failed."""


class DaemonUnresponsive(TransportError):
    """Our own p2pd runs and does not answer: it is stopped, or the machine is overloaded."""


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
        super().__init__("; ".join(str(failure) for failure in failures))
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


class SessionLost(MeshError):
    """A generation session cannot be continued."""


class InvalidRequest(MeshError):
    """The caller asks for something impossible. ``field`` names what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class SessionTooLong(InvalidRequest):
    """Prompt and answer together need more cache than the hosters have."""

    def __init__(self, tokens: int, room: int) -> None:
        super().__init__(
            "max_new_tokens",
            f"prompt and answer take {tokens} cache tokens, and the hosters have room for {room}; "
            "ask for a shorter answer",
        )


class DeviceUnavailable(MeshError):
    """The device to compute on is not there, or cannot be used."""


class ModelError(MeshError):
    """The model files cannot be used."""


class UnknownArchitecture(ModelError):
    """config.json names an architecture that is not supported."""


class QuantisedCheckpoint(ModelError):
    """The checkpoint stores numbers in another type than float32, bfloat16 or float16."""


class ModelFilesMissing(ModelError):
    """A file of the model is not there."""


class ManifestMismatch(ModelError):
    """The weights or numbers at hand are not the ones of the manifest."""


class LayerRangeOutsideModel(ModelError):
    """The layer range is not within the model's layers."""
