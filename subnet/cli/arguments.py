"""Command lines in the older spelling: several values after one option, and underscores.

``--host_maddrs A B`` becomes ``--host-maddrs A --host-maddrs B``; every other
option only has its underscores turned into dashes, and only in its name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def normalise_arguments(arguments: Sequence[str], *, multi_value: Collection[str]) -> list[str]:
    """Return ``arguments`` in the one form that typer parses.

    ``multi_value`` are dashed option names that take one or more values. Values end at the
    next option; ``--`` ends everything.
    """
    normalised: list[str] = []
    collecting: str | None = None
    for index, argument in enumerate(arguments):
        if argument == "--":
            return normalised + list(arguments[index:])
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")
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
