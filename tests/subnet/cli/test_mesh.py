"""``mesh`` and ``mesh-test`` as a person meets them: help, mistakes, keys, status, manifests."""

from __future__ import annotations

import io
import json
import re
import resource
import stat
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import typer

from keys.errors import IdentityFileMissing, KeysError
from keys.identity_file import (
    BOOTSTRAP_PEER_ID_FILE,
    CLIENT_PEER_ID_FILE,
    PEER_ID_FILE,
    load_identity_file,
)
from keys.peer import PeerKey
from mesh.assets import shipped_model_path
from mesh.errors import DaemonFailed, DeviceUnavailable, ModelError, NoRoute, TransportError
from subnet.cli.console import emit, explain, find_expected, run_app, say, stream
from subnet.cli.mesh import app
from subnet.cli.mesh_test import app as node_app
from subnet.errors import ChainUnavailable, ConfigError, SubnetError, UsageError
from subnet.operator.status import DutyLine, EarnedLine, NodeLoad, NodeStatus, write_status

HEAVY = (
    "torch",
    "hivemind",
    "transformers",
    "substrateinterface",
    "eth_account",
    "fastapi",
    "pydantic",
    "numpy",
)
KEY_FILES = (PEER_ID_FILE, BOOTSTRAP_PEER_ID_FILE, CLIENT_PEER_ID_FILE)
COMMANDS = ("", *sorted(command.name or "" for command in app.registered_commands), "chain", "keys")


def run(*arguments: str, tool: typer.Typer = app) -> tuple[int, str, str]:
    """Run a line in this process; return exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        run_app(tool, arguments, name="mesh")
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def fails(*arguments: str, code: int = 1) -> tuple[str, str]:
    """Run a line that must fail; return the sentence and the fix."""
    got, out, err = run(*arguments)
    assert (got, out) == (code, ""), err
    sentence, fix = err.splitlines()
    assert sentence.startswith("error: ") and fix.startswith("hint: ")
    return sentence.removeprefix("error: "), fix.removeprefix("hint: ")


@pytest.mark.parametrize("module", ["subnet.cli.mesh", "subnet.cli.mesh_test"])
def test_help_imports_nothing_heavy(module: str) -> None:
    """Each of these alone costs more than the half second that help may take."""
    script = (
        f"import sys\nfrom {module} import main\nsys.argv[1:] = ['--help']\n"
        "try:\n    main()\n"
        f"finally:\n    sys.stderr.write(repr(sorted(set({HEAVY!r}) & set(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "[]")
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: mesh {command}".strip())
    assert "--help" in out


@pytest.mark.parametrize("tool", [app, node_app])
def test_version_names_package_and_commit(tool: typer.Typer) -> None:
    code, out, _ = run("--version", tool=tool)
    assert code == 0
    assert re.fullmatch(r"mesh \d+\.\d+\.\d+ \(commit ([0-9a-f]{12}(-dirty)?|unknown)\)\n", out)


@pytest.mark.parametrize("module", ["subnet.cli.mesh", "subnet.cli.mesh_test"])
def test_help_does_not_look_for_the_commit(module: str) -> None:
    script = (
        "import os, sys\n"
        "sys.addaudithook(lambda event, _: event == 'subprocess.Popen' and os._exit(9))\n"
        f"from {module} import main\nsys.argv[1:] = ['--help']\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "line", [["nonsense"], ["keygen", "--bogus"], ["devchain", "--port", "x"], ["generate"]]
)
def test_a_line_that_cannot_be_parsed_exits_with_two(line: list[str]) -> None:
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert "Error" in err and "Traceback" not in err


@pytest.mark.parametrize("option", ["--max-age", "--max_age"])
def test_dashes_and_underscores_are_one_spelling(option: str, tmp_path: Path) -> None:
    assert "no node has run" in fails("status", "--data_dir", str(tmp_path), option, "3")[0]


def test_what_strangers_write_does_not_command_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "a\x1b]0;b\x07c\u009b2Jd\re"
    emit(f"name\t{hostile}\nnext")
    say(hostile)
    stream(hostile)
    out, err = capsys.readouterr()
    plain = "a\ufffd]0;b\ufffdc\ufffd2Jd\ufffde"
    assert (out, err) == (f"name\t{plain}\nnext\n{hostile}", f"{plain}\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    stream(hostile)
    assert capsys.readouterr().out == plain


def test_what_a_command_logs_shows_no_token_of_an_address() -> None:
    script = (
        "import logging, typer\nfrom subnet.cli.console import run_app\napp = typer.Typer()\n"
        "@app.command()\ndef warn():\n    url = 'wss://a.example/0123456789abcdef0123'\n"
        "    logging.getLogger('subnet.chain.endpoints').warning('%s is left for now', url)\n"
        "run_app(app, [], name='mesh')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "wss://a.example/... is left for now\n")


class TestKeygen:
    def test_three_private_files_and_their_ids(self, tmp_path: Path) -> None:
        directory = tmp_path / "new" / "keys"
        code, out, err = run("keygen", "--dir", str(directory))
        assert (code, err) == (0, "")
        lines = dict(line.split() for line in out.splitlines())
        assert list(lines) == [str(directory / name) for name in KEY_FILES]
        for path, peer_id in lines.items():
            assert str(load_identity_file(Path(path)).peer_id) == peer_id
            assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert len(set(lines.values())) == 3

    def test_json_is_one_object(self, tmp_path: Path) -> None:
        code, out, _ = run("keygen", "--dir", str(tmp_path), "--json")
        made = json.loads(out)
        assert code == 0 and tuple(made) == KEY_FILES
        assert made[PEER_ID_FILE] == str(load_identity_file(tmp_path / PEER_ID_FILE).peer_id)

    @pytest.mark.parametrize("name", KEY_FILES)
    def test_one_file_in_the_way_and_none_is_written(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text("mine")
        sentence, _ = fails("keygen", "--dir", str(tmp_path))
        assert "never overwritten" in sentence
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "mine"

    def test_a_folder_that_cannot_be_made_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert "cannot write keys" in fails("keygen", "--dir", str(tmp_path / "file"))[0]

    def test_no_private_key_is_ever_printed(self, tmp_path: Path) -> None:
        _, out, _ = run("keygen", "--dir", str(tmp_path), "--json")
        for name in KEY_FILES:
            assert (tmp_path / name).read_bytes()[4:36].hex() not in out


def fails_after_output(*arguments: str) -> tuple[str, str]:
    """Run a line that shows something and then fails; return the sentence and the fix."""
    code, out, err = run(*arguments)
    assert code == 1 and out
    sentence, fix = err.splitlines()
    return sentence.removeprefix("error: "), fix.removeprefix("hint: ")


def make_status(**changes: Any) -> NodeStatus:
    fields: dict[str, Any] = {
        "peer_id": "12D3KooWLaunchPeer",
        "subnet_id": 128001,
        "subnet_node_id": 3,
        "role": "hoster",
        "blocks": (0, 8),
        "written_at": time.time(),
        "head": 41,
        "head_moved_at": time.time(),
        "block_time_s": 6.0,
        "epoch": 2,
        "phase": "commit",
        "taking_part": "active",
        "addresses": (),
    }
    return NodeStatus(**fields | changes)


def keep_status(directory: Path, name: str, **changes: Any) -> None:
    (directory / name).mkdir()
    write_status(directory / name, make_status(**changes))


class TestStatus:
    def test_a_living_node_is_shown(self, tmp_path: Path) -> None:
        keep_status(tmp_path, "128001-3")
        code, out, err = run("status", "--data-dir", str(tmp_path))
        assert (code, err) == (0, "")
        assert "node 3 of subnet 128001: hoster blocks 0:8, head 41, epoch 2, commit" in out

    def test_json_is_one_object_per_node(self, tmp_path: Path) -> None:
        keep_status(tmp_path, "128001-3")
        keep_status(tmp_path, "128001-4", subnet_node_id=4, role="validator", blocks=None)
        code, out, _ = run("status", "--data-dir", str(tmp_path), "--json")
        assert code == 0
        nodes = [json.loads(line) for line in out.splitlines()]
        assert [(node["subnet_node_id"], node["blocks"]) for node in nodes] == [
            (3, [0, 8]),
            (4, None),
        ]

    def test_a_silent_node_fails_the_check(self, tmp_path: Path) -> None:
        keep_status(tmp_path, "128001-3", written_at=time.time() - 1000)
        keep_status(tmp_path, "128001-4", subnet_node_id=4)
        code, out, err = run("status", "--data-dir", str(tmp_path))
        assert code == 1
        assert "node 3 of subnet 128001" in out and "node 4 of subnet 128001" in out
        assert "error: node 3 of subnet 128001 has been silent for 10" in err
        assert run("status", "--data-dir", str(tmp_path), "--max-age", "2000")[0] == 0

    def test_a_head_that_stands_still_fails_the_check(self, tmp_path: Path) -> None:
        keep_status(tmp_path, "128001-3", head_moved_at=time.time() - 168)
        sentence, fix = fails_after_output("status", "--data-dir", str(tmp_path))
        assert sentence.startswith("the head of node 3 of subnet 128001 has stood at block 41 for")
        assert "--chain" in fix

    def test_a_bootstrap_is_shown_before_and_after_a_subnet_names_it(self, tmp_path: Path) -> None:
        nothing = dict.fromkeys(("head", "head_moved_at", "epoch", "phase", "block_time_s"))
        bootstrap = {"role": "bootstrap", "blocks": None, "subnet_node_id": None}
        relaying = {"subnet_id": None, "taking_part": "relaying only"}
        keep_status(tmp_path, "bootstrap-1", **bootstrap, **relaying, **nothing)
        keep_status(tmp_path, "bootstrap-2", **bootstrap, taking_part="no role")
        code, out, _ = run("status", "--data-dir", str(tmp_path))
        first, second = out.splitlines()
        assert code == 0
        assert first.startswith("bootstrap: relaying only, ")
        assert second.startswith("bootstrap of subnet 128001: head 41, epoch 2, commit, no role, ")

    def test_the_screen_fits_80_columns_without_colour_and_has_every_line(
        self, tmp_path: Path
    ) -> None:
        keep_status(
            tmp_path,
            "128001-3",
            phase_ends=44,
            epoch_ends=63,
            duties=(
                DutyLine(duty="commit", progress="due", until=46),
                DutyLine(duty="attest", progress="done", until=61),
            ),
            stay="commit of epoch 2 is due, in chain block 46 at the latest",
            standing="Validator since epoch 1: the highest class",
            eligibility="epoch 3: eligible",
            stake=str(105 * 10**18),
            reputation=str(9 * 10**17),
            earned=(EarnedLine(epoch=0, paid=str(10**16), proposing=str(10**18), slashed="0"),),
            scores=((1, str(10**17)),),
            endpoint="ws://127.0.0.1:9944",
            load=NodeLoad(
                sessions=2,
                rows_per_s=12.5,
                cache_used=4096,
                cache_size=16384,
                peers_direct=5,
                peers_relayed=1,
                servers=4,
                least_hosters=0,
            ),
            missed=("epoch 1: elected, did not propose: no hotkey was given",),
        )
        code, out, err = run("status", "--data-dir", str(tmp_path))
        assert (code, err) == (0, "")
        assert "\x1b" not in out and max(map(len, out.splitlines())) <= 80
        for line in (
            "phase    commit, ends in 3 blocks (18 s); epoch 2 in 22 blocks (132 s)",
            "duties   commit DUE (by block 46), attest ok",
            "state    active, ",
            "restart  commit of epoch 2 is due, in chain block 46 at the latest",
            "class    Validator since epoch 1: the highest class",
            "next     epoch 3: eligible",
            "serving  2 sessions, 12.5 tokens/s, cache 4096/16384 tokens (25 %)",
            "swarm    4 hosters, each block by 0+; 5 peers direct, 1 through relays",
            "scores   epoch 1: 0.100000",
            "stake    105.000000 TENSOR, reputation 0.900",
            "earned   epoch 0: 0.010000 + 1.000000 for proposing TENSOR",
            "chain    ws://127.0.0.1:9944",
            "wrong    some block of the model has no hoster",
        ):
            assert line in out

    def test_an_address_in_brackets_is_shown_whole(self, tmp_path: Path) -> None:
        keep_status(tmp_path, "128001-3", endpoint="ws://[fd00::1]:9944")
        assert "ws://[fd00::1]:9944" in run("status", "--data-dir", str(tmp_path))[1]

    def test_a_stopped_or_killed_node_is_not_called_active(self, tmp_path: Path) -> None:
        keep_status(tmp_path, "128001-3", is_stopped=True, written_at=time.time() - 100)
        code, out, err = run("status", "--data-dir", str(tmp_path))
        assert code == 1 and re.search(r"state +stopped 1\d\d s ago", out)
        assert err.startswith("error: node 3 of subnet 128001 was stopped 1")
        keep_status(tmp_path, "128001-4", subnet_node_id=4, written_at=time.time() - 100)
        out = " ".join(run("status", "--data-dir", str(tmp_path))[1].split())
        assert re.search(r"silent for 1\d\d s, killed or hanging \(last: active\)", out)
        assert not re.search(r"active, \d+ s ago", out)

    def test_a_restart_window_that_does_not_come_is_exit_code_3(self, tmp_path: Path) -> None:
        keep_status(tmp_path, "128001-3", stay="reveal of epoch 2 is due, 3 blocks at most")
        line = ["wait-for-restart-window", "--timeout", "0.01", "--data-dir", str(tmp_path)]
        code, out, err = run(*line)
        assert (code, out) == (3, "")
        assert "node 3 of subnet 128001: reveal of epoch 2 is due" in err
        assert "no window for a restart came in 0.01 s" in err
        keep_status(tmp_path, "128001-4", subnet_node_id=4)
        assert run(*line, "4") == (0, "", "")

    def test_top_without_a_terminal_names_what_to_use(self, tmp_path: Path) -> None:
        code, out, err = run("top", "--data-dir", str(tmp_path))
        assert (code, out) == (2, "")
        assert "mesh status --json" in err

    def test_nothing_there_is_a_failure(self, tmp_path: Path) -> None:
        assert "no node has run" in fails("status", "--data-dir", str(tmp_path))[0]

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"head": 1}', "x" * 70_000])
    def test_a_file_that_is_no_status_is_refused(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "128001-3").mkdir()
        (tmp_path / "128001-3" / "status.json").write_text(content)
        assert "status file" in fails("status", "--data-dir", str(tmp_path))[0]


class TestEarnings:
    def test_without_a_node_here_it_asks_which_one(self, tmp_path: Path) -> None:
        sentence, fix = fails("earnings", "--data-dir", str(tmp_path))
        assert "no node has run" in sentence and "NODE and --subnet" in fix
        for name in ("128001-3", "128001-4"):
            (tmp_path / name).mkdir()
        code, _, err = run("earnings", "--data-dir", str(tmp_path))
        assert code == 2 and "here are 128001-3, 128001-4 (SUBNET-NODE)" in err

    def test_while_the_chain_is_away_it_shows_what_the_node_kept(self, tmp_path: Path) -> None:
        folder = tmp_path / "128001-3"
        folder.mkdir()
        line = ["earnings", "--data-dir", str(tmp_path), "--chain", "ws://127.0.0.1:1"]
        code, out, err = run(*line)
        assert (code, out) == (1, "") and "has kept no earnings" in err
        row = {"epoch": 7, "subnet_node_id": 3, "settled_in_block": 183, "agreed": True}
        row |= {"paid": str(10**17), "shared": "0", "proposing": None, "slashed": "0"}
        row |= {"reputation": [], "unpaid": None, "shortfall": None, "promoted": None}
        row |= {"removed": False, "stake": ["0", str(10**17), "0"]}
        (folder / "earnings.json").write_text(json.dumps({"version": 1, "rows": [row]}))
        code, out, err = run(*line)
        assert code == 0 and "the chain does not answer" in err
        assert "as it has kept them itself" in out and "0.100000" in out
        code, out, _ = run(*line, "--json")
        assert code == 0 and json.loads(out)["rows"][0]["source"] == "node"


class TestManifest:
    def test_the_hash_is_that_of_the_written_body(self, tmp_path: Path) -> None:
        from mesh.model.manifest import decode_manifest

        out_file = tmp_path / "manifest.json"
        code, out, err = run("manifest", str(shipped_model_path()), "--out", str(out_file))
        assert code == 0 and {line.partition(":")[0] for line in err.splitlines()} == {
            "checking the weights 0"
        }
        assert out.strip() == decode_manifest(out_file.read_bytes()).manifest_hash.hex()

    def test_the_same_weights_have_the_same_hash_under_another_path(self, tmp_path: Path) -> None:
        import shutil

        copy = tmp_path / "copy" / shipped_model_path().name
        shutil.copytree(shipped_model_path(), copy)
        first = run("manifest", str(shipped_model_path()))[1]
        assert run("manifest", str(copy))[1] == first

    def test_the_manifest_that_ships_fits_the_model_that_ships(self) -> None:
        """Weights, constants and margins: otherwise `mesh manifest mesh-tiny` must be run again."""
        from consensus.protocol_params import MAINNET
        from mesh.model.config import load_config
        from mesh.model.files import resolve_model_folder
        from mesh.model.margins import check_margins
        from subnet.hosting.manifest import find_fitting_manifest

        folder = resolve_model_folder(str(shipped_model_path()))
        found = find_fitting_manifest(folder, load_config(folder.path), params=MAINNET)
        assert found is not None
        check_margins(found.calibration, tolerance_bits=MAINNET.tolerance_bits)
        assert {"threads-1", "threads-2", "batch", "avx2", "sse4"} <= set(
            found.calibration.variants
        )
        assert run("manifest", str(folder.path))[1].strip() == found.manifest_hash.hex()

    def test_a_model_without_a_fitting_manifest_is_calibrated_and_written_beside(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import shutil

        from mesh.model.manifest import decode_manifest

        monkeypatch.setattr("mesh.model.calibrate.INSTRUCTION_SETS", {})
        folder = tmp_path / "model"
        shutil.copytree(shipped_model_path(), folder)
        file = folder / "mesh-manifest.json"
        file.write_bytes(file.read_bytes().replace(b'"tolerance_bits":12', b'"tolerance_bits":11'))
        code, out, _ = run("manifest", str(folder))
        made = decode_manifest(file.read_bytes())
        assert (code, out.strip()) == (0, made.manifest_hash.hex())
        assert made.constants["tolerance_bits"] == 12
        assert "sse4" not in made.calibration.variants

    def test_a_model_with_too_small_a_margin_gets_no_manifest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tests.support.calibrations import make_calibration

        narrow = make_calibration(8, honest=(10**6,) * 4 + (10**8,) + (10**6,) * 4)
        monkeypatch.setattr("mesh.model.calibrate.calibrate", lambda *_, **__: narrow)
        out_file = tmp_path / "manifest.json"
        sentence, fix = fails(
            "manifest", str(shipped_model_path()), "--again", "--out", str(out_file)
        )
        assert "block 4: honest machines differ by up to 0.0001" in sentence
        assert "another checkpoint" in fix
        assert not out_file.exists()

    def test_no_file_is_overwritten(self, tmp_path: Path) -> None:
        out_file = tmp_path / "manifest.json"
        out_file.write_text("mine")
        line = ["manifest", str(shipped_model_path()), "--out", str(out_file)]
        assert "exists" in fails(*line)[0]
        assert out_file.read_text() == "mine"

    def test_a_missing_model_is_one_sentence(self) -> None:
        assert "is not a folder" in fails("manifest", "/nonexistent/model")[0]


class TestErrors:
    def test_verbose_shows_the_traceback_as_well(self, tmp_path: Path) -> None:
        code, _, err = run("status", "--data-dir", str(tmp_path), "--verbose")
        assert code == 1
        assert err.startswith("Traceback") and err.splitlines()[-1].startswith("hint: ")

    @pytest.mark.parametrize(
        "error",
        [
            ConfigError("a", "b"),
            ChainUnavailable("down"),
            IdentityFileMissing("gone"),
            ModelError("broken"),
            DeviceUnavailable("no GPU"),
            DaemonFailed("p2pd hangs"),
            NoRoute(((0, 4),)),
            TransportError("no initial peer answers"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_expected_errors_have_a_fix_of_their_own(self, error: Exception) -> None:
        sentence, fix = explain(error)
        assert sentence == str(error)
        assert fix and "--verbose" not in fix

    def test_an_absent_device_is_not_blamed_on_the_model_nor_a_frozen_p2pd_on_the_peers(
        self,
    ) -> None:
        assert "--device cpu" in explain(DeviceUnavailable("no GPU"))[1]
        assert "files" not in explain(DeviceUnavailable("no GPU"))[1]
        assert "p2pd" in explain(DaemonFailed("p2pd hangs"))[1]
        assert "--initial-peers" not in explain(DaemonFailed("p2pd hangs"))[1]

    def test_a_usage_error_exits_with_two(self) -> None:
        tool = typer.Typer()

        @tool.command()
        def work() -> None:
            raise UsageError("both", "one")

        assert run(tool=tool)[0] == 2

    def test_an_expected_error_is_found_in_the_groups_of_tasks(self) -> None:
        inner = ChainUnavailable("down")
        group = BaseExceptionGroup("tasks", [ExceptionGroup("more", [inner])])
        assert find_expected(group, (SubnetError, KeysError)) is inner

    def test_a_bug_beside_an_expected_error_is_not_hidden(self) -> None:
        group = ExceptionGroup("tasks", [ChainUnavailable("down"), ZeroDivisionError()])
        assert find_expected(group, (SubnetError, KeysError)) is None


@pytest.mark.parametrize("command", [["generate", "hi"], ["plan", "mesh-tiny"]])
def test_a_dead_peer_is_named_while_it_is_waited_for_and_given_up_soon(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subnet.cli.console.NOTICE_AFTER_S", 0.0)
    monkeypatch.setattr("mesh.client.connection.DIAL_TIMEOUT_S", 2.0)
    peer = f"/ip4/127.0.0.1/tcp/9/p2p/{PeerKey.generate().peer_id}"
    code, out, err = run(*command, "--initial-peers", peer)
    assert (code, out) == (1, "")
    notice, sentence, hint = err.splitlines()
    assert notice == f"waiting for {peer} to answer"
    assert "no initial peer answers" in sentence and "connection refused" in sentence
    assert "--initial-peers" in hint


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["localnet", "--hosters", "1", "--validators", "1"], "at least three nodes"),
        (["localnet", "--keep", "{file}"], "is not empty"),
        (["generate", "hi", "--initial_peers", "nowhere"], "not a multiaddress"),
        (["bootstrap", "--identity_path", "{gone}"], "cannot read an identity"),
        (["devchain", "--port", "0", "--db", "{gone}/x"], "cannot"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_wrong_inputs_end_before_anything_starts(
    line: list[str], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "x").touch()
    places = {"file": tmp_path / "file", "gone": tmp_path / "gone"}
    assert sentence in fails(*(part.format(**places) for part in line))[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_chain_whose_keys_are_public_listens_for_others_only_where_that_is_meant(
    host: str,
) -> None:
    sentence, fix = fails("devchain", "--port", "0", "--host", host, code=2)
    assert "whose keys are public" in sentence
    assert "--expose" in fix


def test_no_command_leaves_a_core_dump_with_keys_in_it() -> None:
    run("--version")
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


def test_mesh_node_is_mesh_test() -> None:
    (alone,) = node_app.registered_commands
    (node,) = (command for command in app.registered_commands if command.name == "node")
    assert node.callback is alone.callback
    sentence, _ = fails("node", "mesh-tiny", code=2)
    assert "--hoster" in sentence and "--validator" in sentence


def test_an_error_leaves_out_the_token_in_a_chains_address() -> None:
    token = "0123456789abcdef0123456789abcdef"
    sentence, fix = fails(
        "chain", "balance", f"0x{'1' * 40}", "--chain", f"wss://127.0.0.1.nip.invalid/v2/{token}"
    )
    assert token not in sentence + fix
    assert "wss://127.0.0.1.nip.invalid/..." in sentence
