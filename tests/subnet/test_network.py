"""A data folder belongs to one key on one network: node and bootstrap keep the same rule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from devchain.config import BlockMode, DevChainConfig
from devchain.server import DevChain
from keys.peer import PeerKey
from mesh.p2p.config import HostConfig, RelayLimits
from mesh.p2p.hivemind_host import HivemindHost
from subnet.bootstrap import BootstrapConfig, run_bootstrap
from subnet.errors import ConfigError
from subnet.network import make_relay_config
from tests.support.chain_rigs import OWNER, WireRig, make_subnet

KEY = PeerKey(b"\7" * 32)


@asynccontextmanager
async def run_chain(seed: bytes) -> AsyncIterator[str]:
    """Run a chain with one subnet; the genesis hash depends on ``seed``."""
    config = DevChainConfig(mode=BlockMode.INSTANT, seed=seed)
    async with DevChain.open(config) as devchain, WireRig.connect(devchain.url) as rig:
        await rig.register_subnet(make_subnet("mesh"), OWNER)
        yield devchain.url


async def run_until_ready(url: str, data_dir: Path) -> None:
    config = BootstrapConfig(
        key=KEY,
        chain_url=url,
        subnet="mesh",
        host_maddrs=("/ip4/127.0.0.1/tcp/0",),
        announce_maddrs=(),
        initial_peers=(),
        data_dir=data_dir,
    )
    is_ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run_bootstrap(config, on_ready=lambda _: is_ready.set()))
        await is_ready.wait()
        running.cancel()


async def test_a_bootstrap_has_p2pds_relay_service_and_a_node_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[HostConfig] = []
    open_host = HivemindHost.open

    def noted(config: HostConfig) -> AbstractAsyncContextManager[HivemindHost]:
        opened.append(config)
        return open_host(config)

    monkeypatch.setattr(HivemindHost, "open", noted)
    async with run_chain(b"first") as url:
        await run_until_ready(url, tmp_path)
    assert [config.relay_service for config in opened] == [RelayLimits()]
    node = make_relay_config(KEY, host_maddrs=(), announce_maddrs=(), initial_peers=())
    assert node.relay_service is None


async def test_a_bootstraps_data_folder_is_refused_when_the_chain_starts_anew(
    tmp_path: Path,
) -> None:
    async with run_chain(b"first") as url:
        await run_until_ready(url, tmp_path)
        await run_until_ready(url, tmp_path)
    async with run_chain(b"anew") as url:
        with pytest.raises(ExceptionGroup) as refused:
            await run_until_ready(url, tmp_path)
    assert refused.group_contains(ConfigError, match="another node or network")
