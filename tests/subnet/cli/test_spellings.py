"""One meaning has one spelling in all commands; what it was called before still works."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator

import pytest
from typer.core import TyperOption

from subnet.cli.arguments import OLD_SPELLINGS, list_old_spellings, normalise_arguments
from subnet.cli.command_tree import (
    build_tree,
    find_command,
    list_options,
    list_spellings,
    walk_commands,
)
from subnet.cli.mesh import app
from subnet.cli.mesh_test import app as node_app

ROOT = build_tree(app)

MEANINGS = {
    "--subnet": r"subnet-?(uid|id|name)|net-?uid",
    "--node": r"(subnet-)?node-?(uid|id)",
    "--chain": r"(chain|rpc|ws|node)-?(url|address|endpoint|rpc)|rpc|endpoint|url",
    "--identity-path": r"(identity|peer)(-key)?(-file)?",
    "--hotkey-path": r"hotkey-(file|keystore|key-file|key-path)",
    "--key-file": r"(coldkey|signer|account)-(path|file|keystore)|key-path|keystore",
    "--password-file": r"password(-path)?|passphrase(-file|-path)?",
    "--data-dir": r"(data|home|base|state)-?(path|folder|directory)|home|datadir",
    "--initial-peers": r"(initial-peer|peer-address|peers|bootstrap-peers|join)",
    "--dir": r"(identity|key|keys)-(dir|directory|folder)|directory|folder",
    "--out": r"out-?(put|file|path)|output-file|to-file",
    "--json": r"as-json|format-json|json-output",
    "--log-level": r"level|verbosity|logging-level|loglevel",
    "--log-file": r"log-path|logfile|logging-file",
    "--quant-type": r"quant|quantisation|quantization(-type)?",
    "--block-indices": r"blocks-range|layers|block-range|layer-indices",
    "--num-blocks": r"num-layers|block-count",
    "--host": r"http-host|listen|bind|address",
}
"""What an option is called, and what else people call it. The right side names no option."""


def list_all() -> Iterator[tuple[str, TyperOption]]:
    for path, command in walk_commands(ROOT):
        for option in list_options(command):
            yield " ".join(path), option


def test_no_command_has_a_second_spelling_of_a_meaning() -> None:
    found = [
        f"{command} {name}: call it {right}"
        for command, option in list_all()
        for name in option.opts
        for right, others in MEANINGS.items()
        if re.fullmatch(others, name.removeprefix("--"))
    ]
    assert not found


def test_every_meaning_is_of_an_option_that_exists() -> None:
    known = {name for _, option in list_all() for name in option.opts}
    assert set(MEANINGS) <= known


def test_a_parameter_of_one_name_is_spelled_in_one_way() -> None:
    """Functions call a value by the same name in all commands: so do their options."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for _, option in list_all():
        spelled[option.name].add(option.opts[0])
    assert not {name: spellings for name, spellings in spelled.items() if len(spellings) > 1}


def test_options_with_the_same_explanation_are_spelled_in_one_way() -> None:
    spelled: dict[str, set[str]] = defaultdict(set)
    for _, option in list_all():
        spelled[str(option.help)].add(option.opts[0])
    assert not {text: spellings for text, spellings in spelled.items() if len(spellings) > 1}


def test_no_option_has_an_alias_that_help_shows() -> None:
    assert not [f"{command} {option.opts}" for command, option in list_all() if option.opts[1:]]


def test_every_option_is_explained() -> None:
    assert not [f"{command} {option.opts}" for command, option in list_all() if not option.help]


def test_a_spelling_means_the_same_kind_of_value_everywhere() -> None:
    """``--subnet`` takes a name in one command, so it takes a name in all of them."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for _, command in walk_commands(ROOT):
        assert command.callback is not None
        parameters = inspect.signature(command.callback, eval_str=True).parameters
        for option in list_options(command):
            kind = str(parameters[option.name].annotation)
            for name in ("int", "float", "bool", "pathlib.Path", "list", "str"):
                if re.search(rf"\b{name}\b", kind.partition(", <typer")[0]):
                    kinds[option.opts[0]].add(name)
                    break
    differing = {name for name, found in kinds.items() if len(found) > 1}
    # One takes away the addresses that it names, the other an account's whole right.
    assert differing == {"--remove"}


@pytest.mark.parametrize(("old", "new"), sorted(OLD_SPELLINGS.items()))
def test_an_old_spelling_works_where_the_new_one_does_and_is_hidden(old: str, new: str) -> None:
    understood = [
        command
        for _, command in walk_commands(ROOT)
        if list_old_spellings(list_spellings(command)).get(old) == new
    ]
    assert understood
    for command in understood:
        assert old not in list_spellings(command)
        spellings = list_old_spellings(list_spellings(command))
        for written in (old, old.replace("-", "_").replace("__", "--", 1)):
            assert normalise_arguments([written, "x"], spellings=spellings) == [new, "x"]
            assert normalise_arguments([f"{written}=x"], spellings=spellings) == [f"{new}=x"]


@pytest.mark.parametrize(
    ("line", "old"),
    [
        ("chain onboard", "--hotkey-password-file"),
        ("chain transfer", "--to"),
    ],
)
def test_an_old_spelling_that_means_something_else_here_is_left_alone(line: str, old: str) -> None:
    _, command = find_command(ROOT, line.split())
    assert old in list_spellings(command)
    assert old not in list_old_spellings(list_spellings(command))


def test_both_commands_of_a_node_have_the_same_options() -> None:
    _, node = find_command(ROOT, ["node"])
    alone = list_spellings(build_tree(node_app)) - {"--install-completion", "--show-completion"}
    assert alone == list_spellings(node)


@pytest.mark.parametrize(
    "line",
    [
        "node M --new_swarm --hoster --identity_path K --subnet_id 1 --subnet_node_id 2",
        "node M --host_maddrs A B --initial_peers P --validator --hotkey_path H"
        " --hotkey_password_file F",
        "bootstrap --subnet_id 1",
        "chain node --subnet 1 --node_id 2",
        "chain register-node --identity-dir keys --hotkey-file hotkey.json",
        "chain accounts export coldkey.json --to plain",
    ],
)
def test_a_line_in_the_older_spelling_names_options_that_exist(line: str) -> None:
    words = line.split()
    path, command = find_command(ROOT, words)
    spellings = list_spellings(command)
    rest = normalise_arguments(words[len(path) :], spellings=list_old_spellings(spellings))
    assert {word for word in rest if word.startswith("--")} <= spellings
