"""``mesh serve``: its keys, and what it refuses before anything slow."""

from __future__ import annotations

import stat
import subprocess
import sys

import pytest
import typer

from mesh.api.auth import KeyRing
from subnet.cli.console import run_app
from subnet.cli.serve import serve

app = typer.Typer()
app.command("serve")(serve)


@pytest.fixture
def mesh_serve(capsys):
    """Return a function that runs the command and gives exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            run_app(app, [str(a) for a in arguments], name="mesh")
        captured = capsys.readouterr()
        return ended.value.code, captured.out.strip(), captured.err

    return run


def test_a_key_is_shown_once_listed_by_name_and_revoked(mesh_serve, tmp_path):
    path = tmp_path / "keys"
    code, key, talk = mesh_serve("--keys-file", path, "--create-key", "ci", "--per-minute", 5)
    assert code == 0 and key.startswith("mesh-") and key not in talk
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing.open(path).identify(key) == "ci"
    code, listed, _ = mesh_serve("--keys_file", path, "--list-keys")
    assert code == 0 and listed == "ci\tactive\t5/min\tburst 30" and key not in listed
    assert mesh_serve("--keys-file", path, "--revoke-key", "ci")[0] == 0
    assert KeyRing.open(path).identify(key) is None
    assert "revoked" in mesh_serve("--keys-file", path, "--list-keys")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--initial-peers"),
        (["--create-key", "x"], 2, "--keys-file"),
        (["--keys-file", "absent", "--list-keys"], 1, "absent"),
        (["--initial-peers", "/ip4/1.2.3.4/tcp/1", "--host", "0.0.0.0"], 1, "--create-key"),
        (["--initial-peers", "/ip4/1.2.3.4/tcp/1", "--host", "::"], 1, "without a key"),
        (["--port", "70000"], 2, "65535"),
    ],
)
def test_a_mistake_is_one_sentence_and_one_fix(mesh_serve, arguments, code, says):
    ended, out, talk = mesh_serve(*arguments)
    assert ended == code and says in talk and out == ""
    assert "Traceback" not in talk


def test_help_imports_no_server():
    check = (
        "import sys; import subnet.cli.serve; "
        "sys.exit(any(name in sys.modules for name in ('fastapi', 'uvicorn', 'torch', 'hivemind')))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
