"""Where a process shows its metrics, and who may read them there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keys.errors import SecretFileExposed
from keys.secret_file import read_secret_file
from mesh.loopback import is_loopback
from mesh.p2p.ports import PortInUse, check_ports_free
from subnet.errors import ConfigError

DEFAULT_HOST = "127.0.0.1"
NODE_PORT = 31340
BOOTSTRAP_PORT = 31341
GATEWAY_PORT = 31342
"""Below the ports that Linux gives to outgoing connections, so that a restart finds them free."""
MIN_TOKEN_SIZE = 16
MAX_TOKEN_SIZE = 512


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """``port`` None takes the default of the process, 0 a free one.

    ``token_file`` holds the token that readers must send.
    """

    host: str = DEFAULT_HOST
    port: int | None = None
    token_file: Path | None = None

    def check(self) -> None:
        """Raise ConfigError for a port that is taken, or a token that is missing or unusable."""
        self.read_token()
        host = DEFAULT_HOST if self.host == "localhost" else self.host
        family = "ip6" if ":" in host else "ip4"
        try:
            check_ports_free((f"/{family}/{host}/tcp/{self.port or 0}",))
        except PortInUse as error:
            raise ConfigError(
                f"cannot show metrics on {error}", "choose another --metrics-port"
            ) from error

    def read_token(self) -> str | None:
        """Return the token that readers send. Raises ConfigError.

        An address that others reach needs one.
        """
        if self.token_file is not None:
            return _read_token(self.token_file)
        if is_loopback(self.host):
            return None
        raise ConfigError(
            f"--metrics-host {self.host} shows the metrics to others without a token",
            "put a long random text into a file of mode 0600 and give --metrics-token-file FILE",
        )


def _read_token(path: Path) -> str:
    try:
        token = read_secret_file(path, max_size=MAX_TOKEN_SIZE).decode("ascii").strip()
    except SecretFileExposed as error:
        raise ConfigError(f"the metrics token file {error.problem}", error.fix) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the metrics token file {path}: {error}", "name a text file"
        ) from error
    if not MIN_TOKEN_SIZE <= len(token) <= MAX_TOKEN_SIZE or any(map(str.isspace, token)):
        raise ConfigError(
            f"{path} does not hold a token of {MIN_TOKEN_SIZE} to {MAX_TOKEN_SIZE} characters",
            f"write one: (umask 077; openssl rand -hex 32 > {path})",
        )
    return token
