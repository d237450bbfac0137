"""The older command lines parse to the same options as the dashed ones."""

import pytest

from subnet.cli.arguments import normalise_arguments

MULTI = frozenset({"--host-maddrs", "--initial-peers"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--host_maddrs", "a", "b"], ["--host-maddrs", "a", "--host-maddrs", "b"]),
        (
            ["--host-maddrs", "a", "--host-maddrs", "b"],
            ["--host-maddrs", "a", "--host-maddrs", "b"],
        ),
        (["M", "--new_swarm", "--hoster"], ["M", "--new-swarm", "--hoster"]),
        (["--host_maddrs=a", "M"], ["--host-maddrs=a", "M"]),
        (["--subnet_id", "a_b"], ["--subnet-id", "a_b"]),
        (
            ["--initial_peers", "x", "y", "-v", "z"],
            ["--initial-peers", "x", "--initial-peers", "y", "-v", "z"],
        ),
        (["--host_maddrs"], ["--host-maddrs"]),
        (["--host_maddrs", "--hoster"], ["--host-maddrs", "--hoster"]),
        (["--", "--host_maddrs", "a_b"], ["--", "--host_maddrs", "a_b"]),
    ],
)
def test_underscores_and_several_values_become_the_one_form(
    given: list[str], expected: list[str]
) -> None:
    assert normalise_arguments(given, multi_value=MULTI) == expected
