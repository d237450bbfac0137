"""The screen of ``mesh status`` and ``mesh top``: one node, in lines that fit 80 columns.

Words carry the meaning and colour only repeats it, so a terminal without colour shows the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from subnet.cli.earnings import format_tensor
from subnet.operator.status import SILENT_AFTER_S, DutyLine, NodeStatus

WIDTH = 80
SHOWN_MISSED = 3
_REACH = {
    "direct": "directly",
    "relayed": "through a relay",
    "none": "not at all",
    "private": "from its own network only",
}
_MARKS = {"done": "ok", "due": "DUE", "later": "later", "missed": "MISSED"}
_STYLES = {"done": "green", "due": "yellow", "later": "dim", "missed": "bold red"}


def render_screen(nodes: Sequence[NodeStatus], *, now_s: float) -> RenderableType:
    """Return what is shown of all nodes of this machine."""
    return Group(*(part for node in nodes for part in _render_node(node, now_s=now_s)))


def _render_node(node: NodeStatus, *, now_s: float) -> Iterator[RenderableType]:
    if node.subnet_node_id is None:
        yield Text(node.describe(now_s=now_s), style="bold")
        return
    yield Text(node.describe_place(), style="bold")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in list_lines(node, now_s=now_s):
        # A plain text would be read as markup, and lose what stands in brackets.
        table.add_row(f"  {name}", value if isinstance(value, Text) else Text(value))
    yield table


def list_lines(node: NodeStatus, *, now_s: float) -> Iterator[tuple[str, Text | str]]:
    """Yield the lines of one node: a name and what it is."""
    is_dead = node.is_silent(now_s=now_s)
    yield "state", Text(node.describe_life(now_s=now_s), style="bold red" if is_dead else "green")
    if node.standing is not None:
        yield "class", node.standing
    if is_dead:
        yield "next", "it earns nothing while it does not run"
    elif node.eligibility is not None:
        yield "next", node.eligibility
    if not is_dead:
        yield from _list_work(node)
    yield from _list_money(node)
    if node.endpoint is not None:
        yield "chain", node.endpoint
    problems = list_problems(node, now_s=now_s)
    yield "wrong", Text("; ".join(problems), style="bold red") if problems else "nothing known"


def _list_work(node: NodeStatus) -> Iterator[tuple[str, Text | str]]:
    if node.head is not None and node.phase_ends is not None and node.epoch_ends is not None:
        yield (
            "phase",
            f"{node.phase}, ends in {_count_down(node, node.phase_ends)};"
            f" epoch {node.epoch} in {_count_down(node, node.epoch_ends)}",
        )
    if node.duties:
        yield "duties", _join_duties(node.duties)
    yield "restart", node.stay or "costs nothing now"
    load = node.load
    if load.sessions is not None and load.cache_size:
        used = load.cache_used or 0
        yield (
            "serving",
            f"{load.sessions} sessions, {load.rows_per_s or 0:.1f} tokens/s,"
            f" cache {used}/{load.cache_size} tokens ({100 * used // load.cache_size} %)",
        )
    if load.servers is not None:
        reached = (
            "peers not known"
            if load.peers_direct is None
            else f"{load.peers_direct} peers direct, {load.peers_relayed} through relays"
        )
        if node.reach in _REACH:
            reached += f"; others reach it {_REACH[node.reach]}"
        yield "swarm", f"{load.servers} hosters, each block by {load.least_hosters}+; {reached}"


def _list_money(node: NodeStatus) -> Iterator[tuple[str, Text | str]]:
    if node.scores:
        yield (
            "scores",
            ", ".join(f"epoch {epoch}: {int(score) / 10**18:.6f}" for epoch, score in node.scores),
        )
    if node.stake is not None and node.reputation is not None:
        reputation = int(node.reputation) / 10**18
        yield "stake", f"{format_tensor(int(node.stake))} TENSOR, reputation {reputation:.3f}"
    for number, line in enumerate(node.earned):
        proposing = "" if line.proposing is None else f" + {_tensor(line.proposing)} for proposing"
        slashed = f" - {_tensor(line.slashed)} slashed" if int(line.slashed) else ""
        why = "" if line.reason is None else f": {line.reason}"
        text = f"epoch {line.epoch}: {_tensor(line.paid)}{proposing}{slashed} TENSOR{why}"
        yield "" if number else "earned", text


def list_problems(node: NodeStatus, *, now_s: float) -> list[str]:
    """Return what is wrong with a node, the worst first."""
    from subnet.errors import ConfigError

    problems = []
    try:
        if node.is_silent(now_s=now_s) and not node.is_stopped:
            problems.append(
                "the process was killed, or hangs; look at its log, then start it again"
            )
        else:
            node.check(now_s=now_s, max_age_s=SILENT_AFTER_S)
    except ConfigError as error:
        problems.append(f"{error}; {error.hint}")
    if node.load.least_hosters == 0:
        problems.append("some block of the model has no hoster, so no prompt is answered")
    if node.load.peers_direct == 0 and not node.load.peers_relayed:
        problems.append("no peer is connected")
    if node.reach == "none":
        problems.append("no peer can dial it: see `mesh doctor`, or give --auto-relay")
    failing = [f"mesh doctor fails at {text}" for text in node.failing]
    return [*problems, *failing, *node.missed[:SHOWN_MISSED]]


def _join_duties(duties: Sequence[DutyLine]) -> Text:
    joined = Text()
    for number, duty in enumerate(duties):
        joined.append(", " if number else "")
        joined.append(f"{duty.duty} ")
        joined.append(_MARKS.get(duty.progress, "?"), style=_STYLES.get(duty.progress, ""))
        if duty.progress in ("due", "later"):
            joined.append(f" (by block {duty.until})")
    return joined


def _count_down(node: NodeStatus, block: int) -> str:
    left = max(0, block - (node.head or 0))
    blocks = f"{left} block{'' if left == 1 else 's'}"
    return blocks if node.block_time_s is None else f"{blocks} ({left * node.block_time_s:.0f} s)"


def _tensor(units: str) -> str:
    return format_tensor(int(units))
