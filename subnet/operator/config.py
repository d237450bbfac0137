"""What an operator decides about one node, parsed once at the edge."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from consensus.types import LayerRange, Role
from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.errors import UsageError
from subnet.operator.metrics_options import MetricsOptions
from subnet.operator.monitor_options import MonitorOptions
from subnet.operator.webhook import Webhook

TorchDtype = Literal["auto", "float32", "bfloat16", "float16"]
HopDtype = Literal["auto", "bfloat16", "float16"]
QuantType = Literal["none", "int8", "int4"]
Speculate = Literal["auto", "off"]
MAX_PLUGIN_NAME = 256
MAX_SUBNET_NAME = 256


class NodeConfig(BaseModel):
    """One node. Paths are as given; nothing is opened here.

    ``layer_indices`` is half-open. A hoster serves ``layer_indices``, or chooses where
    ``num_layers`` layers (None: as many as fit) help most. ``subnet`` (an id or a name) and
    ``subnet_node_id`` None means that they are looked up on the chain by peer id. ``unpaid``
    serves clients without taking part in consensus. A ``light`` validator audits nothing and needs
    no weights.
    ``auto_relay`` has relays among the initial peers pass on what others dial.
    ``metrics`` and ``monitor`` None: the node shows none; ``alert_webhook`` None: it tells no
    alerts.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True
    )

    model: str = Field(min_length=1, max_length=1024)
    role: Role
    identity_path: Path
    hotkey_path: Path | None = None
    hotkey_password_file: Path | None = None
    chain_url: str = DEFAULT_CHAIN_URL
    subnet: str | None = Field(default=None, min_length=1, max_length=MAX_SUBNET_NAME)
    subnet_node_id: int | None = Field(default=None, ge=1, lt=2**32)
    host_maddrs: tuple[str, ...] = ()
    announce_maddrs: tuple[str, ...] = ()
    initial_peers: tuple[str, ...] = ()
    new_swarm: bool = False
    auto_relay: bool = False
    port: int | None = Field(default=None, ge=1, le=65535)
    public_ip: str | None = None
    layer_indices: LayerRange | None = None
    num_layers: int | None = Field(default=None, ge=1, le=1024)
    device: str = "cpu"
    torch_dtype: TorchDtype = "auto"
    hop_dtype: HopDtype = "auto"
    threads: int | None = Field(default=None, ge=1, le=256)
    quant_type: QuantType = "none"
    deterministic: bool = False
    speculate: Speculate = "auto"
    unpaid: bool = False
    light: bool = False
    allow_file: Path | None = None
    deny_file: Path | None = None
    priority: str | None = Field(default=None, min_length=1, max_length=MAX_PLUGIN_NAME)
    attn_cache_tokens: int = Field(default=16_384, ge=16)
    max_sessions: int | None = Field(default=None, ge=1, le=4096)
    max_sessions_per_peer: int | None = Field(default=None, ge=1, le=4096)
    max_batch_rows: int | None = Field(default=None, ge=1, le=1024)
    prefill_chunk: int | None = Field(default=None, ge=1, le=512)
    data_dir: Path | None = None
    metrics: MetricsOptions | None = None
    monitor: MonitorOptions | None = None
    alert_webhook: Webhook | None = None

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.new_swarm and self.initial_peers:
            raise ValueError("--new-swarm and --initial-peers exclude each other")
        if self.new_swarm and self.auto_relay:
            raise ValueError("--auto-relay needs a peer that relays: --initial-peers")
        if self.layer_indices is not None and self.num_layers is not None:
            raise ValueError("--block-indices and --num-blocks exclude each other")
        if self.role is Role.VALIDATOR and (self.layer_indices or self.num_layers):
            raise ValueError("a validator serves no blocks")
        if self.role is Role.VALIDATOR and (self.unpaid or self.quant_type != "none"):
            raise ValueError("--unpaid and --quant-type are for hosters")
        if self.role is Role.HOSTER and self.light:
            raise ValueError("--light is for validators")
        if self.public_ip is not None and self.port is None:
            raise ValueError("--public-ip needs --port")
        if self.port is not None and self.host_maddrs:
            raise ValueError("--port and --host-maddrs exclude each other")
        return self

    def get_host_maddrs(self) -> tuple[str, ...]:
        """Return the addresses to listen on."""
        if self.host_maddrs:
            return self.host_maddrs
        return (f"/ip4/0.0.0.0/tcp/{self.port or 0}",)

    def get_announce_maddrs(self) -> tuple[str, ...]:
        """Return the addresses to announce; empty means those that the host sees."""
        if self.announce_maddrs:
            return self.announce_maddrs
        if self.public_ip is not None:
            family = "ip6" if ":" in self.public_ip else "ip4"
            return (f"/{family}/{self.public_ip}/tcp/{self.port}",)
        return ()


def check_quant_type(text: str) -> QuantType:
    """Return a quantisation that exists. Raises UsageError."""
    for known in get_args(QuantType):
        if text == known:
            return cast(QuantType, known)
    known = "none, int8 or int4"
    raise UsageError(f"--quant-type: {text!r} is not {known}", f"give {known}")


def parse_layer_indices(text: str) -> LayerRange:
    """Parse ``START:END``, half-open. Raises ValueError with a sentence."""
    start, colon, end = text.partition(":")
    if not colon or not start.isdecimal() or not end.isdecimal() or len(text) > 16:
        raise ValueError(f"a block range is START:END, half-open, such as 0:11, not {text!r}")
    if int(start) >= int(end):
        raise ValueError(f"the block range {text} is empty; ranges are half-open")
    return LayerRange(int(start), int(end))
