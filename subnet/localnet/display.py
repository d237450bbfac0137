"""Display of a local network: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.text import Text

from subnet.localnet.epoch_row import EpochRow, LostEpoch

REFRESH_PER_SECOND = 8


class Display(Protocol):
    """Told what happens, in order."""

    def step(self, text: str) -> None:
        """Something is done."""
        ...

    def head(self, *, epoch: int, offset: int, length: int, phase: str) -> None:
        """The chain has a new block."""
        ...

    def piece(self, text: str) -> None:
        """The answer has grown by ``text``; empty text ends it."""
        ...

    def row(self, row: EpochRow | LostEpoch) -> None:
        """An epoch is scored, proposed and attested, or lost."""
        ...


class PlainDisplay:
    """Lines, in the order in which they happen; what happens during the answer follows it."""

    def __init__(self, output: TextIO, *, results: TextIO | None) -> None:
        """``results`` gets one JSON line per epoch; without it the table goes to ``output``."""
        self._output = output
        self._results = results
        self._is_answering = False
        self._held: list[str] = []

    def step(self, text: str) -> None:
        self._talk(f"{text}\n")

    def head(self, *, epoch: int, offset: int, length: int, phase: str) -> None:
        if offset == 0:
            self.step(f"epoch {epoch} begins")

    def piece(self, text: str) -> None:
        if text:
            self._is_answering = True
            self._write(text)
        elif self._is_answering:
            self._is_answering = False
            self._write("\n" + "".join(self._held))
            self._held.clear()

    def row(self, row: EpochRow | LostEpoch) -> None:
        if self._results is None:
            self._talk(f"\n{row.to_text()}\n\n")
        else:
            self._results.write(row.to_json() + "\n")
            self._results.flush()

    def _talk(self, text: str) -> None:
        if self._is_answering:
            self._held.append(text)
        else:
            self._write(text)

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


class LiveDisplay:
    """A panel that follows the chain, with what is final above it."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._answer = ""
        self._title = "starting"
        self._bar = ProgressBar(total=1, completed=0, width=40)

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[LiveDisplay]:
        console = Console()
        with Live(console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True) as live:
            display = cls(console, live)
            display._draw()
            yield display

    def step(self, text: str) -> None:
        self._console.print(f"[green]✓[/green] {text}", highlight=False)

    def head(self, *, epoch: int, offset: int, length: int, phase: str) -> None:
        self._title = f"epoch {epoch} · {phase.upper()} · block {offset + 1} of {length}"
        self._bar = ProgressBar(total=length, completed=offset + 1, width=40)
        self._draw()

    def piece(self, text: str) -> None:
        if text:
            self._answer += text
        elif self._answer:
            self._console.print(Panel(Text(self._answer), title="answer", title_align="left"))
            self._answer = ""
        self._draw()

    def row(self, row: EpochRow | LostEpoch) -> None:
        self._console.print(row.to_text(), highlight=False)
        self._console.print()

    def _draw(self) -> None:
        parts = Group(Text(self._title), self._bar, Text(self._answer))
        self._live.update(Panel(parts, title="mesh localnet", title_align="left"))
