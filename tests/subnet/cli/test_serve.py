"""``mesh serve``: its keys, and what it refuses before anything slow."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time

import pytest
import typer

from mesh.api.auth import KeyRing
from mesh.api.usage_file import KeyUsage, UsageFile, compute_day, locate_usage
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


def test_a_key_is_listed_with_its_terms(mesh_serve, tmp_path):
    path = tmp_path / "keys"
    terms = ("--tokens-per-day", 1000, "--expires", "2199-01-31", "--allowed-model", "a/b")
    assert mesh_serve("--keys-file", path, "--create-key", "ci", *terms)[0] == 0
    code, listed, _ = mesh_serve("--keys-file", path, "--list-keys")
    assert code == 0
    assert listed.split("\t")[4:] == ["1000 tokens/day", "until 2199-01-31T00:00:00Z", "models a/b"]
    (key,) = json.loads(mesh_serve("--keys-file", path, "--list-keys", "--json")[1])["keys"]
    assert (key["tokens_per_day"], key["models"]) == (1000, ["a/b"])
    assert key["expires"] == "2199-01-31T00:00:00Z"


def test_usage_is_shown_by_key_and_day_with_what_is_left(mesh_serve, tmp_path):
    path = tmp_path / "keys"
    assert mesh_serve("--keys-file", path, "--create-key", "a", "--tokens-per-day", 100)[0] == 0
    assert mesh_serve("--keys-file", path, "--create-key", "b")[0] == 0
    code, _, talk = mesh_serve("usage", "--keys-file", path)
    assert code == 1 and "there is no file of usage" in talk
    file = UsageFile(locate_usage(path))
    today = compute_day(time.time())
    file.add({("a", today - 1): KeyUsage(1, 2, 3), ("b", today): KeyUsage(4, 5, 6)}, today=today)
    code, out, _ = mesh_serve("usage", "--keys-file", path, "--json")
    rows = json.loads(out)["usage"]
    assert code == 0 and [(row["name"], row["requests"], row["left"]) for row in rows] == [
        ("a", 1, None),
        ("a", 0, 100),
        ("b", 4, None),
    ]
    file.add({("a", today): KeyUsage(1, 30, 31)}, today=today)
    file.close()
    code, out, _ = mesh_serve("usage", "--keys-file", path)
    assert code == 0 and out.splitlines()[2].split("\t")[1:] == ["a", "1", "30", "31", "39"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--initial-peers"),
        (["--create-key", "x"], 2, "--keys-file"),
        (["--keys-file", "absent", "--list-keys"], 1, "absent"),
        (["--initial-peers", "/ip4/1.2.3.4/tcp/1", "--host", "0.0.0.0"], 1, "--create-key"),
        (["--initial-peers", "/ip4/1.2.3.4/tcp/1", "--host", "::"], 1, "without a key"),
        (["--port", "70000"], 2, "65535"),
        (["--keys-file", "absent", "--create-key", "x", "--expires", "soon"], 2, "2027-01-31"),
        (["--keys-file", "absent", "--create-key", "x", "--expires", "2001-01-01"], 1, "over"),
        (
            ["--keys-file", "absent", "--create-key", "x", "--tokens-per-day", "0"],
            2,
            "--tokens-per-day",
        ),
        (["usage"], 2, "--keys-file"),
        (["usage", "--keys-file", "absent"], 1, "absent"),
        (["used", "--keys-file", "absent"], 2, "usage"),
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
