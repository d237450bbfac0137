"""Where a process shows the monitor page, and to whom."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.loopback import is_loopback
from mesh.p2p.ports import PortInUse, check_ports_free
from subnet.errors import ConfigError

DEFAULT_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """``port`` 0 takes a free one.

    ``is_public`` lets it listen where others reach it: the page changes nothing and asks for no
    key. ``shows_addresses`` publishes the addresses that nodes announce, which may be homes.
    """

    port: int
    host: str = DEFAULT_HOST
    is_public: bool = False
    shows_addresses: bool = False

    def check(self) -> None:
        """Raise ConfigError for a port that is taken, or a public address that was not meant."""
        if not is_loopback(self.host) and not self.is_public:
            raise ConfigError(
                f"listening on {self.host} shows the monitor page to everybody who reaches it",
                "say that it is meant with --monitor-public (mesh monitor: --public)",
            )
        host = DEFAULT_HOST if self.host == "localhost" else self.host
        family = "ip6" if ":" in host else "ip4"
        try:
            check_ports_free((f"/{family}/{host}/tcp/{self.port}",))
        except PortInUse as error:
            raise ConfigError(
                f"cannot show the monitor page on {error}",
                "choose another --monitor-port (mesh monitor: --port)",
            ) from error
