"""Flags, variables, file, defaults: which one counts, what is refused, and what is shown of it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from make_settings_page import MARKER, PAGE, build_page
from subnet.cli.command_tree import build_tree, find_command
from subnet.cli.configuration import Line, list_all_settings, read_given, take_config_option
from subnet.cli.mesh import app
from subnet.cli.mesh_test import app as node_app
from subnet.cli.resolution import EXCLUDING
from subnet.cli.settings import TABLES, map_settings
from subnet.errors import UsageError
from tests.subnet.cli.test_mesh import fails, keep_status, run

ROOT = build_tree(app)
SETTINGS = list_all_settings(ROOT)
NOWHERE = "ws://127.0.0.1:1"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file of all commands of the test."""
    path = tmp_path / "etc" / "mesh.toml"
    path.parent.mkdir()
    path.touch()
    monkeypatch.setenv("MESH_CONFIG", str(path))
    return path


def show(*line: str) -> dict[str, dict[str, Any]]:
    """Return the settings that ``mesh config show`` names, by table and key."""
    code, out, err = run("config", "show", "--json", *line)
    assert code == 0, err
    rows = json.loads(out)["settings"]
    return {f"{row['table']}.{row['key']}".lstrip("."): row for row in rows}


def origin(row: dict[str, Any]) -> tuple[Any, str, str | None]:
    return row["value"], row["source"], row["place"]


class TestPrecedence:
    def test_flag_then_variable_then_file_then_default(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert origin(show("serve")["serve.port"]) == (8000, "default", None)
        config.write_text("[serve]\nport = 1111\n")
        assert origin(show("serve")["serve.port"]) == (1111, "file", f"{config}:2")
        monkeypatch.setenv("MESH_SERVE_PORT", "2222")
        assert origin(show("serve")["serve.port"]) == (2222, "variable", "MESH_SERVE_PORT")
        line = ("serve", "--port", "3333")
        assert origin(show(*line)["serve.port"]) == (3333, "flag", "--port")

    def test_the_commands_own_goes_before_the_shared_in_variables_and_in_the_file(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config.write_text('chain = "ws://shared"\n[node]\nchain = "ws://own"\n')
        assert show("node")["node.chain"]["value"] == "ws://own"
        assert show("bootstrap")["bootstrap.chain"]["value"] == "ws://shared"
        monkeypatch.setenv("MESH_CHAIN", "ws://variable")
        assert origin(show("node")["node.chain"]) == ("ws://variable", "variable", "MESH_CHAIN")
        monkeypatch.setenv("MESH_NODE_CHAIN", "ws://mine")
        assert show("node")["node.chain"]["value"] == "ws://mine"
        assert show("bootstrap")["bootstrap.chain"]["value"] == "ws://variable"

    def test_an_empty_variable_is_no_value(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config.write_text("[serve]\nport = 1111\n")
        monkeypatch.setenv("MESH_SERVE_PORT", "")
        assert show("serve")["serve.port"]["value"] == 1111

    def test_a_command_runs_with_what_is_shown(
        self, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each source in turn decides where ``mesh status`` looks."""
        for number, name in enumerate(("file", "variable", "flag"), start=1):
            (tmp_path / "etc" / name).mkdir()
            keep_status(tmp_path / "etc" / name, f"128001-{number}", subnet_node_id=number)
        config.write_text('data-dir = "file"\n')
        assert "node 1 of" in run("status")[1]
        monkeypatch.setenv("MESH_HOME", str(tmp_path / "etc" / "variable"))
        assert "node 2 of" in run("status")[1]
        assert "node 3 of" in run("status", "--data-dir", str(tmp_path / "etc" / "flag"))[1]

    @pytest.mark.parametrize("tool", ["mesh", "mesh-test"])
    def test_a_node_takes_all_from_the_file(
        self, tool: str, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: dict[str, Any] = {}

        def keep(values: dict[str, Any], **others: Any) -> None:
            started.update(values | others)

        monkeypatch.setattr("subnet.cli.mesh_test_command.run_node_command", keep)
        config.write_text(
            'chain = "ws://shared"\nlog-level = "debug"\n[node]\nmodel = "mesh-tiny"\n'
            'hoster = true\nidentity-path = "keys/peer_id.key"\nport = 4000\nthreads = 2\n'
            'announce-maddrs = ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/2"]\n'
            "no-metrics = true\n"
        )
        code, _, err = run("node") if tool == "mesh" else _run_alone()
        assert code == 0, err
        assert started["model"] == "mesh-tiny" and started["hoster"]
        assert started["identity_path"] == config.parent / "keys/peer_id.key"
        assert (started["port"], started["threads"]) == (4000, 2)
        assert started["announce_maddrs"] == ("/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/tcp/2")
        assert started["chain_url"] == "ws://shared" and started["metrics"] is None
        assert started["logs"].level == "debug"

    @pytest.mark.parametrize(
        ("line", "key", "value"),
        [
            ("node M --validator", "hoster", False),
            ("node M --validator", "num-blocks", None),
            ("node M --host-maddrs /ip4/127.0.0.1/tcp/1", "port", None),
            ("node M --new-swarm", "initial-peers", None),
            ("node M --metrics-port 5", "no-metrics", False),
            ("node M --block-indices 0:4", "num-blocks", None),
            ("node M --subnet 1", "hoster", True),
        ],
    )
    def test_a_flag_goes_before_the_files_opposite(
        self, line: str, key: str, value: Any, config: Path
    ) -> None:
        config.write_text(
            "[node]\nhoster = true\nnum-blocks = 4\nport = 4000\nno-metrics = true\n"
            'initial-peers = ["/ip4/127.0.0.1/tcp/1"]\n'
        )
        assert show(*line.split())[f"node.{key}"]["value"] == value

    def test_what_is_said_not_to_be_excludes_nothing(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config.write_text("[node]\nhoster = true\n")
        monkeypatch.setenv("MESH_NODE_VALIDATOR", "0")
        assert show("node")["node.hoster"]["value"] is True

    def test_two_that_exclude_each_other_in_one_source_are_left_to_the_command(
        self, config: Path, tmp_path: Path
    ) -> None:
        config.write_text('[node]\nmodel = "mesh-tiny"\nhoster = true\nvalidator = true\n')
        assert "exactly one of --hoster and --validator" in fails("node", code=2)[0]

    def test_a_signing_account_is_a_setting_and_another_ones_flag_goes_first(
        self, config: Path, tmp_path: Path
    ) -> None:
        config.write_text(f'chain = "{NOWHERE}"\n[account]\nkey-file = "absent.json"\n')
        line = ["chain", "claim"]
        assert str(config.parent / "absent.json") in fails(*line)[0]
        assert NOWHERE in fails(*line, "--dev-account", "alith")[0]
        # What opens another keystore has another password.
        export = map_settings(("chain", "accounts", "export"), find("chain accounts export"))
        assert not export


def _run_alone() -> tuple[int, str, str]:
    """Run ``mesh-test`` without arguments."""
    import io
    from contextlib import redirect_stderr, redirect_stdout

    from subnet.cli.console import run_app

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        run_app(node_app, [], name="mesh-test")
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def find(line: str) -> Any:
    return find_command(ROOT, line.split())[1]


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "sentence", "fix"),
        [
            ("chian = 1", ":1: there is no key 'chian'", "the nearest is chain"),
            ("[nodes]\nport = 1", ":1: there is no key 'nodes'", "the nearest is node"),
            ("[node]\nprot = 1", ":2: [node] has no key 'prot'", "the nearest is port"),
            ("[node]\ninitial_peers = []", "has no key 'initial_peers'", "write initial-peers"),
            ("[node]\nsubnet-id = 1", "has no key 'subnet-id'", "write subnet"),
            ("port = 1", "there is no key 'port'", "[node], [bootstrap], [serve]"),
            ("[node]\nqqqqq = 1", "has no key 'qqqqq'", "`mesh config show` lists all keys"),
            ("[node]\njson = true", "has no key 'json'", "lists all keys"),
            ('[node]\nport = "x"', ":2: [node] port must be a whole number from 1", "correct it"),
            ("[node]\nport = true", "must be a whole number", "correct it"),
            ("[node]\nport = 0", "must be a whole number from 1 to 65535", "correct it"),
            ("[node]\nhoster = 1", "hoster must be true or false", "correct it"),
            ('[node]\nhost-maddrs = "a"', "host-maddrs must be a list of texts", "correct it"),
            ("[node]\nhost-maddrs = [1]", "must be a list of texts", "correct it"),
            ("[node]\nidentity-path = 7", "must be a path, as text", "correct it"),
            ('log-level = "loud"', "log-level must be one of debug, info", "correct it"),
            ('[status]\nmax-age = "x"', "max-age must be a number of at least 1", "correct it"),
            ("[chain]\nport = 1", "chain must be a text", "correct it"),
            ("chain = ", "is no TOML", "correct that line"),
        ],
    )
    def test_what_the_file_says_wrong_is_named_with_its_fix(
        self, text: str, sentence: str, fix: str, config: Path
    ) -> None:
        config.write_text(text)
        for line in (["status"], ["config", "show"]):
            said, hint = fails(*line)
            assert str(config) in said and sentence in said and fix in hint

    @pytest.mark.parametrize(
        ("variable", "text", "sentence"),
        [
            ("MESH_SERVE_PORT", "http", "MESH_SERVE_PORT must be a whole number from 0 to 65535"),
            ("MESH_SERVE_PORT", "65536", "MESH_SERVE_PORT must be a whole number from 0 to 65535"),
            ("MESH_SERVE_NO_METRICS", "maybe", "MESH_SERVE_NO_METRICS must be true or false"),
            ("MESH_LOG_LEVEL", "loud", "MESH_LOG_LEVEL must be one of debug, info"),
        ],
    )
    def test_what_a_variable_says_wrong_is_named(
        self, variable: str, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, text)
        assert sentence in fails("serve")[0]

    def test_no_value_is_ever_in_an_error(self, config: Path) -> None:
        config.write_text('[node]\npassword = "hunter2"\n')
        assert "hunter2" not in "".join(fails("status"))
        config.write_text('[node]\nport = "hunter2"\n')
        assert "hunter2" not in "".join(fails("status"))

    def test_help_and_version_work_with_a_broken_file(self, config: Path) -> None:
        config.write_text("chain = ")
        for line in (["--version"], ["--help"], ["status", "--help"], ["chain", "--help"]):
            assert run(*line)[0] == 0
        assert run("keygen", "--dir", str(config.parent / "keys"))[0] == 0

    def test_a_file_that_is_named_has_to_be_there(self, tmp_path: Path) -> None:
        absent = str(tmp_path / "absent.toml")
        assert absent in fails("status", "--config", absent)[0]
        assert absent in fails("--config", absent, "status")[0]
        assert "needs a file" in fails("status", "--config", code=2)[0]


class TestShow:
    def test_what_it_prints_is_a_file_that_says_the_same(self, config: Path) -> None:
        config.write_text(
            'chain = "ws://x"\n[node]\nhoster = true\nhost-maddrs = ["a", "b"]\nport = 5\n'
            "[generate]\ntemperature = 0.5\n"
        )
        code, out, _ = run("config", "show", "--origin")
        assert code == 0 and tomllib.loads(out) == tomllib.loads(config.read_text()) | {
            table: {} for table in TABLES if table not in ("node", "generate")
        } | {"account": {}}
        assert f'chain = "ws://x"  # {config}:1' in out
        assert '# torch-dtype = "auto"  # default' in out
        # With the comments taken away it sets every default to itself.
        lines = [text for text in out.splitlines() if not text.endswith("=  # default")]
        config.write_text("\n".join(text.removeprefix("# ") for text in lines[1:]))
        again = show()
        assert again["devchain.port"]["source"] == "file"
        assert again["devchain.port"]["value"] == 9944

    def test_every_setting_is_shown_with_its_source(self) -> None:
        rows = show()
        assert len(rows) == len(SETTINGS)
        assert {row["source"] for row in rows.values()} == {"default"}
        variables = [row["variable"] for row in rows.values()]
        assert len(set(variables)) == len(variables)

    def test_a_secret_in_an_address_is_left_out_and_a_secrets_file_is_named(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = "0123456789abcdef0123456789abcdef"
        secret = config.parent / "password"
        secret.write_text("hunter2")
        secret.chmod(0o600)
        config.write_text(
            f'[node]\npassword-file = "password"\nalert-webhook = "https://h.example/{key}"\n'
        )
        monkeypatch.setenv("MESH_CHAIN", f"wss://u:hunter2@chain.example/v3/{key}?t=hunter2")
        for line in (["--origin"], ["--json"], ["--origin", "node"], ["--json", "node"]):
            code, out, err = run("config", "show", *line)
            assert code == 0
            assert "hunter2" not in out + err and key not in out + err
            assert str(secret) in out and "chain.example" in out

    def test_a_variable_that_sets_nothing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MESH_CHIAN", "x")
        code, _, err = run("config", "show")
        assert code == 0
        assert "the variable MESH_CHIAN sets nothing; the nearest is MESH_CHAIN" in err

    @pytest.mark.parametrize("line", ["nonsense", "keygen", "chain accounts list", "chain"])
    def test_what_has_no_settings_is_refused(self, line: str) -> None:
        assert "is no command that has settings" in fails("config", "show", line, code=2)[0]

    def test_the_older_spelling_is_understood(self) -> None:
        rows = show("node", "M", "--subnet_id", "7", "--host_maddrs", "a", "b")
        assert rows["node.subnet"]["value"] == "7"
        assert rows["node.host-maddrs"]["value"] == ["a", "b"]


def test_offline_is_told_to_the_library_before_it_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os
    import subprocess
    import sys

    script = (
        "import os, sys\nfrom subnet.cli.mesh import main\n"
        "sys.argv[1:] = ['plan', 'owner/absent-model', *sys.argv[1:]]\n"
        "main()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    for line, extra in ((["--offline"], {}), ([], {"MESH_OFFLINE": "1"})):
        done = subprocess.run(
            [sys.executable, "-c", script, *line],
            env=environment | extra,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "is not downloaded offline" in done.stderr


def test_config_may_stand_anywhere_and_ends_with_two_dashes() -> None:
    assert take_config_option(["a", "--config", "f", "b"]) == (["a", "b"], Path("f"))
    assert take_config_option(["--config=f", "a"]) == (["a"], Path("f"))
    assert take_config_option(["a", "--", "--config", "f"]) == (["a", "--", "--config", "f"], None)
    for line in (["--config"], ["--config", "--json"], ["--config="]):
        with pytest.raises(UsageError):
            take_config_option(line)


def test_what_is_wrong_on_a_line_is_left_to_the_parser() -> None:
    line = Line(find("node"), ("node",), ("M", "--port", "x", "--bogus", "--hoster"))
    read_given(line)
    assert run("node", *line.arguments)[0] == 2


def test_every_table_is_of_a_command_that_exists() -> None:
    assert {setting.table for setting in SETTINGS} == {"", *TABLES, "account"}


def test_settings_that_exclude_each_other_exist() -> None:
    known = {setting.key for setting in SETTINGS}
    assert {key for pair in EXCLUDING for key in pair} <= known


def test_no_setting_is_a_secret() -> None:
    """What is called like a secret is the path of a file."""
    words = ("password", "key", "token", "secret", "phrase")
    for setting in SETTINGS:
        if any(word in setting.key for word in words) and "tokens" not in setting.key:
            assert setting.key.endswith(("-file", "-path")), setting


def test_the_page_has_the_settings_that_the_commands_have() -> None:
    """Otherwise run python tools/make_settings_page.py."""
    text = PAGE.read_text(encoding="utf-8")
    assert build_page(text) == text
    example = text.partition(MARKER)[0].partition("```toml\n")[2].partition("```")[0]
    for table, values in tomllib.loads(example).items():
        for key in values if isinstance(values, dict) else (table,):
            place = table if isinstance(values, dict) else ""
            assert (place, key) in {(setting.table, setting.key) for setting in SETTINGS}
