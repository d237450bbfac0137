"""``mesh simulate``: one object for people and programs, and names that are not known."""

import json

import pytest
from typer.testing import CliRunner

from subnet.cli.mesh import app
from subnet.errors import ConfigError


def run(*arguments):
    return CliRunner().invoke(app, ["simulate", *arguments])


def test_a_search_prints_one_object_with_its_seed_and_trace():
    result = run("--epochs", "3", "--seed", "1", "--processes", "1", "--faults", "none", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["seed"], found["nodes"], found["epochs"]) == (1, 7, 3)
    assert found["attested"] == 3
    assert found["violations"] == []
    assert len(found["trace"]) == 64


def test_a_cheat_can_be_named_and_people_read_a_sentence():
    result = run("--epochs", "2", "--processes", "1", "--faults", "none", "--cheat", "garbage")
    assert result.exit_code == 0, result.output
    assert "2 of 2 epochs attested, 0 violations" in result.output


def test_the_economics_of_one_strategy_are_a_table_or_an_object():
    options = ("--economics", "--epochs", "2", "--cheat", "silent")
    assert "| silent | 0.00 |" in run(*options).output
    found = json.loads(run(*options, "--json").stdout.splitlines()[-1])
    assert found["strategies"][0]["stopped"] is True


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("--faults", "rain"), "--faults: rain"),
        (("--cheat", "rain"), "--cheat: rain"),
        (("--economics", "--cheat", "rain"), "--cheat: rain"),
    ],
)
def test_an_unknown_name_is_named_with_those_that_are_known(arguments, name):
    error = run(*arguments).exception
    assert isinstance(error, ConfigError)
    assert name in str(error)
