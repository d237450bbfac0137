"""Every command that prints a result prints it as JSON when asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.assets import shipped_model_path
from subnet.cli.command_tree import build_tree, list_options, list_spellings, walk_commands
from subnet.cli.mesh import app
from tests.subnet.cli.test_mesh import run
from tests.support.commands import MESH, run_command

WITHOUT = {
    ("node",): "its output is its log, which --log-format makes JSON",
    ("demo-chat",): "a demonstration for people; serve and generate have JSON",
    ("top",): "a live screen; status has its values",
    ("wait-for-restart-window",): "its result is the exit code",
}
"""Commands without ``--json``, and why."""


def test_every_command_prints_json_or_says_here_why_not() -> None:
    found = {
        path
        for path, command in walk_commands(build_tree(app))
        if "--json" not in list_spellings(command)
    }
    assert found == set(WITHOUT)


def test_json_is_a_flag_without_a_value_everywhere() -> None:
    for path, command in walk_commands(build_tree(app)):
        for option in list_options(command):
            if option.opts == ["--json"]:
                assert option.is_flag, path


def test_the_processes_that_log_have_the_same_options_for_it() -> None:
    wanted = {"--log-level", "--log-format", "--log-file"}
    for path, command in walk_commands(build_tree(app)):
        if path in (("node",), ("bootstrap",), ("serve",)):
            assert wanted <= list_spellings(command), path


def test_a_manifest_as_json_names_its_file() -> None:
    code, out, err = run("manifest", str(shipped_model_path()), "--json")
    assert code == 0 and "error" not in err
    made = json.loads(out)
    assert run("manifest", str(shipped_model_path()))[1].strip() == made["manifest_hash"]
    assert Path(made["file"]).is_file()


def test_api_keys_as_json_hold_no_key_but_the_one_that_is_made(tmp_path: Path) -> None:
    keys = ["serve", "--keys-file", str(tmp_path / "keys"), "--json"]
    made = json.loads(run(*keys, "--create-key", "ci", "--per-minute", "5")[1])
    assert made["name"] == "ci" and len(made["key"]) > 20
    code, out, _ = run(*keys, "--list-keys")
    assert code == 0 and made["key"] not in out
    assert json.loads(out) == {
        "keys": [{"name": "ci", "state": "active", "per_minute": 5, "burst": 30}]
    }
    assert json.loads(run(*keys, "--revoke-key", "ci")[1]) == {"name": "ci", "state": "revoked"}


@pytest.mark.parametrize("level", ["info", "error"])
def test_a_bootstrap_prints_its_addresses_as_json_and_logs_as_json_lines(
    level: str, tmp_path: Path
) -> None:
    assert run("keygen", "--dir", str(tmp_path))[0] == 0
    line = [*MESH, "bootstrap", "--json", "--no-metrics", "--data-dir", str(tmp_path / "data")]
    line += ["--identity-path", str(tmp_path / "bootstrap_peer_id.key")]
    line += ["--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--chain", "ws://127.0.0.1:1"]
    line += ["--log-level", level, "--log-format", "json", "--log-file", str(tmp_path / "log")]
    with run_command(line, tmp_path / "out") as command:
        command.wait_for('{"addresses": [')
        command.press_ctrl_c()
        command.wait()
        (address,) = json.loads(command.stdout)["addresses"]
        said = [json.loads(text) for text in command.stderr.splitlines()]
    assert "/p2p/12D3KooW" in address
    events = [row["event"] for row in said]
    assert ("connecting to the chain" in events) == (level == "info")
    kept = [json.loads(text)["event"] for text in (tmp_path / "log").read_text().splitlines()]
    assert kept == events
