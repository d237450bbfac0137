"""Command lines in the older spellings: several values after one option, underscores, old names.

``--host_maddrs A B`` becomes ``--host-maddrs A --host-maddrs B``, ``--subnet_id 1`` becomes
``--subnet 1``; every other option only has its underscores turned into dashes, and only in its
name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

MULTI_VALUE = frozenset({"--host-maddrs", "--announce-maddrs", "--initial-peers"})
"""Options that take one or more values each time."""

OLD_SPELLINGS = {
    "--delegate-reward-percent": "--delegate-percent",
    "--hotkey-file": "--hotkey-path",
    "--hotkey-password-file": "--password-file",
    "--identity-dir": "--dir",
    "--node-id": "--node",
    "--subnet-id": "--subnet",
    "--subnet-node-id": "--node",
    "--to": "--out",
}
"""What an option was called before. It works where a command has the new name and not the old."""


def list_old_spellings(options: Collection[str]) -> dict[str, str]:
    """Return the old names, each with the new one, that a command with ``options`` understands."""
    return {old: new for old, new in OLD_SPELLINGS.items() if new in options and old not in options}


def normalise_arguments(
    arguments: Sequence[str],
    *,
    multi_value: Collection[str] = MULTI_VALUE,
    spellings: Mapping[str, str] | None = None,
) -> list[str]:
    """Return ``arguments`` in the one form that typer parses.

    ``multi_value`` are dashed option names that take one or more values. Values end at the
    next option; ``--`` ends everything. ``spellings`` are old option names and the new ones.
    """
    renamed = spellings or {}
    normalised: list[str] = []
    collecting: str | None = None
    for index, argument in enumerate(arguments):
        if argument == "--":
            return normalised + list(arguments[index:])
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")
            name = renamed.get(name, name)
            collecting = name if name in multi_value and not equals else None
            if collecting is None:
                normalised.append(name + equals + value)
            elif not _has_value(arguments, index):
                # Left for the parser, which says that the option needs a value.
                normalised.append(name)
        elif argument.startswith("-") and argument != "-":
            collecting = None
            normalised.append(argument)
        elif collecting is not None:
            normalised += [collecting, argument]
        else:
            normalised.append(argument)
    return normalised


def _has_value(arguments: Sequence[str], index: int) -> bool:
    return index + 1 < len(arguments) and not arguments[index + 1].startswith("--")
