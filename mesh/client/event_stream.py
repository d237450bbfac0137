"""Server-sent events as they arrive over HTTP, in pieces of any size."""

from __future__ import annotations

MAX_EVENT_BYTES = 1 << 20


class EventTooLong(ValueError):
    """A server sent a line or an event that never ends."""


class EventReader:
    """Cuts bytes into the data of events; comments and other fields are left out.

    The format is the WHATWG one: lines that end with LF, CR LF or CR, events that end with an empty
    line.
    """

    def __init__(self, *, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = b""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[str]:
        """Return the data of every event that is complete now. Raises EventTooLong."""
        lines = (self._rest + chunk).splitlines(keepends=True)
        self._rest = b""
        # A line is over when its end is there; a CR at the very end may yet become CR LF.
        if lines and not lines[-1].endswith(b"\n"):
            self._rest = lines.pop()
        if len(self._rest) > self._max_bytes:
            raise EventTooLong(f"a line is longer than {self._max_bytes} bytes")
        events = [self._take(line.rstrip(b"\r\n")) for line in lines]
        return [event for event in events if event is not None]

    def _take(self, line: bytes) -> str | None:
        """Return an event's data when this line ends it."""
        if not line:
            data, self._data, self._size = self._data, [], 0
            return "\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._size += len(value)
            if self._size > self._max_bytes:
                raise EventTooLong(f"an event is longer than {self._max_bytes} bytes")
            self._data.append(value.removeprefix(b" ").decode("utf-8", "replace"))
        return None
