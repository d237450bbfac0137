"""``mesh generate``: ask one question and stream the answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subnet.chain.endpoints import DEFAULT_CHAIN_URL
from subnet.cli.console import emit, say, say_if_slow, stream
from subnet.cli.options import Chain, Offline, SwarmSubnet
from subnet.cli.peers import find_peers
from subnet.cli.receipt_file import check_receipt_path, keep_receipt
from subnet.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from mesh.client.client import Prompt
    from mesh.client.receipts import AnswerReceipt
    from mesh.inference.sampling import Sampling
    from mesh.inference.tokens import Token, Trace, TracedHop
    from subnet.gateway import ClientConfig

MAX_PROMPT_BYTES = 8 << 20


def generate(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from stdin.")],
    initial_peers: Annotated[
        list[str] | None, typer.Option(help="Multiaddresses of running nodes; several may follow.")
    ] = None,
    subnet: SwarmSubnet = None,
    chain: Chain = DEFAULT_CHAIN_URL,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    max_layers_per_hop: Annotated[
        int | None,
        typer.Option("--max-blocks-per-hop", min=1, help="Most blocks that one hoster computes."),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Instructions for the model, before the question.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Texts that end the answer; several may follow.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text itself, without a chat template.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus sampling.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample among so many tokens; 0: all.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Makes a sampled answer repeatable.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the tokenizer is; the peers' model if absent.")
    ] = None,
    offline: Offline = False,
    identity_path: Annotated[
        Path | None, typer.Option(help="client_peer_id.key; a fresh identity if absent.")
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            "--receipt",
            metavar="FILE",
            help="Let the hosters sign the answer, and write that to a new file of mode 0600.",
        ),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show route and speed on stderr.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, at the end.")] = False,
) -> None:
    """Ask the hosters of a subnet, and stream the answer.

    The hosters see the prompt: do not send them secrets.
    """
    import asyncio

    from keys.identity_file import load_identity_file
    from mesh.client.receipts import AnswerReceipt
    from mesh.inference.sampling import Sampling
    from subnet.gateway import ClientConfig
    from subnet.operator.logs import LogOptions, configure_logs

    configure_logs(LogOptions(level="warning"))
    if raw and system is not None:
        raise UsageError("--raw has no instructions", "put them into the text, or leave out --raw")
    if receipt is not None:
        check_receipt_path(receipt)
    asked = _read_prompt(prompt)
    kept = None if receipt is None else AnswerReceipt()
    peers = find_peers(initial_peers, subnet=subnet, chain=chain)
    config = ClientConfig(
        initial_peers=peers.addresses,
        network_id=peers.network_id,
        key=None if identity_path is None else load_identity_file(identity_path),
        model=model,
    )
    sampling = _make_sampling(Sampling, temperature, top_p, top_k, seed)
    answer = asyncio.run(
        _ask(
            config,
            asked if raw else _make_messages(asked, system),
            sampling,
            max_new_tokens=max_new_tokens,
            max_layers_per_hop=max_layers_per_hop,
            stop=stop or (),
            is_streaming=not as_json,
            dialled=peers.describe(),
            receipt=kept,
        )
    )
    _finish(answer, as_json=as_json, trace=trace)
    if receipt is not None and kept is not None:
        say(keep_receipt(kept, receipt))


def _read_prompt(prompt: str) -> str:
    """Return the question, or what stands on stdin for ``-``. Raises ConfigError."""
    if prompt != "-":
        return prompt
    raw = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(raw) > MAX_PROMPT_BYTES:
        raise ConfigError(f"stdin has more than {MAX_PROMPT_BYTES} bytes", "ask about a part of it")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ConfigError("stdin is no text in UTF-8", "convert it, or name a text file") from None


def _make_messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    instructions = [] if system is None else [{"role": "system", "content": system}]
    return [*instructions, {"role": "user", "content": prompt}]


def _make_sampling(
    kind: type[Sampling], temperature: float, top_p: float, top_k: int, seed: int | None
) -> Sampling:
    import secrets

    return kind(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=secrets.randbits(32) if seed is None else seed,
    )


async def _ask(
    config: ClientConfig,
    prompt: Prompt,
    sampling: Sampling,
    *,
    max_new_tokens: int,
    max_layers_per_hop: int | None,
    stop: Sequence[str],
    is_streaming: bool,
    dialled: str,
    receipt: AnswerReceipt | None,
) -> list[Token]:
    from contextlib import AsyncExitStack

    from mesh.client.route_search import RoutingOptions
    from subnet.gateway import open_client

    pieces = []
    async with AsyncExitStack() as stack:
        with say_if_slow(f"waiting for {dialled} to answer"):
            client = await stack.enter_async_context(open_client(config))
        async for piece in client.generate(
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            routing=RoutingOptions(max_layers_per_hop=max_layers_per_hop),
            receipt=receipt,
        ):
            pieces.append(piece)
            if is_streaming:
                stream(piece.text)
    return pieces


def _finish(pieces: list[Token], *, as_json: bool, trace: bool) -> None:
    import json

    last = pieces[-1]
    if as_json:
        emit(
            json.dumps(
                {
                    "text": "".join(piece.text for piece in pieces),
                    "token_ids": [piece.token_id for piece in pieces],
                    "finish_reason": last.finish_reason,
                    "route": [
                        {
                            "peer_id": hop.peer_id,
                            "blocks": [hop.start, hop.end],
                            "step_ms": hop.step_ms,
                        }
                        for hop in last.trace.measure_route()
                    ],
                    "reroutes": last.trace.reroutes,
                    "refills": last.trace.refills,
                    "first_token_s": last.trace.time_to_first_token_s,
                    "tokens_per_second": last.trace.tokens_per_second,
                    "tokens_per_step": last.trace.tokens_per_step,
                    "dropped_windows": last.trace.dropped_windows,
                }
            )
        )
    else:
        emit("")
    if trace:
        say(describe_trace(last.trace))


def describe_trace(trace: Trace) -> str:
    """Return the route and the speed of an answer in one line."""
    hops = " → ".join(_describe_hop(hop) for hop in trace.measure_route())
    first_s, speed = trace.time_to_first_token_s, trace.tokens_per_second
    per_step = trace.tokens_per_step or 1.0
    rate = "" if first_s is None else f", the first after {first_s:.2f} s"
    rate += "" if speed is None else f", {speed:.0f} tokens/s"
    if per_step > 1.0:
        dropped = trace.dropped_windows
        rate += f" ({per_step:.1f} a pass{f', {dropped} windows dropped' if dropped else ''})"
    kept = f" ({trace.refills} filled only what was lost)" if trace.refills else ""
    return f"route {hops}; {trace.tokens} tokens{rate}; {trace.reroutes} re-routes{kept}"


def _describe_hop(hop: TracedHop) -> str:
    step = "" if hop.step_ms is None else f" in {hop.step_ms:.1f} ms"
    return f"{hop.start}:{hop.end} at …{hop.peer_id[-6:]}{step}"
