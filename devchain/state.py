"""A versioned map of the chain's storage: item -> key -> all values so far.

Every value carries the block that wrote it, so a read at an old block is a
binary search, and a failed call is undone from a journal. Values are immutable.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from devchain.scale import ScaleType, type_of

V = TypeVar("V")
Key = tuple[Any, ...]


class Hasher(Enum):
    """How a storage key is hashed; the value is its index in metadata."""

    BLAKE2_128_CONCAT = 2
    TWOX_64_CONCAT = 5
    IDENTITY = 6


@dataclass(frozen=True)
class KeyPart:
    hasher: Hasher
    kind: ScaleType


@dataclass(frozen=True, eq=False)
class Item(Generic[V]):
    """One storage item. ``default`` is None where the chain answers Option::None."""

    pallet: str
    name: str
    kind: ScaleType
    keys: tuple[KeyPart, ...] = ()
    default: V | None = None

    @property
    def is_optional(self) -> bool:
        return self.default is None


def by_identity(annotation: Any) -> KeyPart:
    """A key part that is its own encoding."""
    return KeyPart(Hasher.IDENTITY, type_of(annotation))


def by_blake2(annotation: Any) -> KeyPart:
    """A key part that is prefixed with its 16-byte BLAKE2b hash."""
    return KeyPart(Hasher.BLAKE2_128_CONCAT, type_of(annotation))


class _Absent(Enum):
    ABSENT = "absent"


ABSENT = _Absent.ABSENT
Version = tuple[int, Any]


@dataclass
class StateReader:
    """The state as it was when ``block`` ended; :class:`State` reads the block being written."""

    block: int = 0
    _versions: dict[Item[Any], dict[Key, list[Version]]] = field(default_factory=dict)

    def _lookup(self, item: Item[V], key: Key) -> V | _Absent:
        versions = self._versions.get(item, {}).get(key, [])
        position = bisect_right(versions, self.block, key=lambda version: version[0])
        value: V | _Absent = versions[position - 1][1] if position else ABSENT
        return value

    def find(self, item: Item[V], *key: Any) -> V | None:
        """Return the stored value, or None."""
        value = self._lookup(item, key)
        return None if value is ABSENT else value

    def get(self, item: Item[V], *key: Any) -> V:
        """Return the stored value or the item's default. Raises KeyError if there is neither."""
        value = self._lookup(item, key)
        if value is not ABSENT:
            return value
        if item.default is None:
            raise KeyError(f"{item.pallet}.{item.name}{key}")
        return item.default

    def contains(self, item: Item[Any], *key: Any) -> bool:
        return self._lookup(item, key) is not ABSENT

    def items(self, item: Item[V], *prefix: Any) -> Iterator[tuple[Key, V]]:
        """Yield the entries whose key begins with ``prefix``, sorted by key."""
        size = len(prefix)
        for key in sorted(key for key in self._versions.get(item, ()) if key[:size] == prefix):
            value = self._lookup(item, key)
            if value is not ABSENT:
                yield key, value


@dataclass
class State(StateReader):
    """The newest state, with its whole past.

    ``block`` is the block being written. A call is wrapped in :meth:`mark` and,
    if it fails, :meth:`rollback`.
    """

    _undo: list[tuple[list[Version], Version | None]] = field(default_factory=list)
    _changed: dict[tuple[Item[Any], Key], None] = field(default_factory=dict)

    def _lookup(self, item: Item[V], key: Key) -> V | _Absent:
        # Nothing is newer than this block, so the last version is the one to read.
        versions = self._versions.get(item, {}).get(key)
        value: V | _Absent = versions[-1][1] if versions else ABSENT
        return value

    def begin_block(self, block: int) -> None:
        """Start writing ``block``; what was written before can no longer be undone."""
        self.block = block
        self._undo.clear()
        self._changed.clear()

    def rewind(self, block: int) -> None:
        """Forget what was written after ``block`` ended: the blocks of a fork that lost."""
        for keys in self._versions.values():
            for versions in keys.values():
                while versions and versions[-1][0] > block:
                    versions.pop()
        self.begin_block(block)

    def put(self, item: Item[V], *key: Any, value: V) -> None:
        """Store ``value`` as of this block."""
        self._write(item, key, value)

    def remove(self, item: Item[Any], *key: Any) -> None:
        """Delete an entry; do nothing if there is none."""
        if self.contains(item, *key):
            self._write(item, key, ABSENT)

    def take(self, item: Item[V], *key: Any) -> V | None:
        """Delete an entry and return what it held."""
        value = self.find(item, *key)
        self.remove(item, *key)
        return value

    def remove_prefix(self, item: Item[Any], *prefix: Any) -> int:
        """Delete every entry below ``prefix``; return how many there were."""
        keys = [key for key, _ in self.items(item, *prefix)]
        for key in keys:
            self.remove(item, *key)
        return len(keys)

    def add(self, item: Item[int], *key: Any, amount: int) -> None:
        """Add to a counter, never below zero: the pallet's arithmetic saturates."""
        self.put(item, *key, value=max(0, self.get(item, *key) + amount))

    def _write(self, item: Item[Any], key: Key, value: Any) -> None:
        versions = self._versions.setdefault(item, {}).setdefault(key, [])
        replaced = versions.pop() if versions and versions[-1][0] == self.block else None
        versions.append((self.block, value))
        self._undo.append((versions, replaced))
        self._changed[item, key] = None

    def mark(self) -> int:
        """Return a point that :meth:`rollback` can return to within this block."""
        return len(self._undo)

    def rollback(self, mark: int) -> None:
        """Undo every write since ``mark``."""
        while len(self._undo) > mark:
            versions, replaced = self._undo.pop()
            versions.pop()
            if replaced is not None:
                versions.append(replaced)

    def changes(self) -> Iterator[tuple[Item[Any], Key, Any]]:
        """Yield what this block wrote: item, key and the new value or ``ABSENT``."""
        for item, key in self._changed:
            versions = self._versions[item][key]
            if versions and versions[-1][0] == self.block:
                yield item, key, versions[-1][1]

    def at(self, block: int) -> StateReader:
        """Return a reader of the state as it was when ``block`` ended."""
        return StateReader(block, self._versions)
