"""The surroundings of a local network: chain, block maker, directory, port."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from subnet.chain.development import check_development_chain
from subnet.chain.substrate import SubstrateChain
from subnet.errors import ConfigError
from subnet.localnet.block_making import BUILD_TIMEOUT_S, BlockMaker, choose_block_maker
from subnet.localnet.devchain_process import run_devchain
from subnet.localnet.display import Display
from subnet.localnet.options import EPOCH_LENGTH, FINALITY_LAG, LocalnetOptions


@asynccontextmanager
async def provide_chain(
    options: LocalnetOptions, directory: Path, display: Display
) -> AsyncIterator[str]:
    """Yield the address of the chain to run on. A chain started here is stopped on leaving."""
    if options.chain_url is not None:
        display.step(f"chain on {options.chain_url}")
        yield options.chain_url
        return
    async with run_devchain(
        block_seconds=options.block_seconds,
        epoch_length=EPOCH_LENGTH,
        finality_lag=FINALITY_LAG,
        log_path=directory / "logs" / "devchain.log",
    ) as url:
        display.step(f"development chain on {url}")
        yield url


@asynccontextmanager
async def open_block_maker(options: LocalnetOptions, url: str) -> AsyncIterator[BlockMaker]:
    """Yield the block maker, on a connection of its own so that it does not wait for reads."""
    async with SubstrateChain.open(url, call_timeout_s=BUILD_TIMEOUT_S) as chain:
        await check_development_chain(chain, url)
        blocks = await choose_block_maker(
            chain, block_seconds=options.block_seconds, is_driven=options.is_driven, url=url
        )
        try:
            yield blocks
        finally:
            await blocks.aclose()


@contextlib.contextmanager
def open_directory(keep: Path | None) -> Iterator[Path]:
    """Yield a private directory for keys, journals and logs; removed unless it is to be kept."""
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise ConfigError(f"{keep} is not empty", "choose a new directory for --keep")
        keep.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="mesh-localnet-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def find_free_port() -> int:
    """Return a TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
