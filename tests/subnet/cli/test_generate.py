"""``mesh generate`` against real hosters: what it streams, and the receipt that it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat

import pytest

from mesh.assets import default_question
from mesh.client.bridge import LoopThread
from subnet.cli.console import run_app
from subnet.cli.mesh import app
from tests.mesh.client.test_real_hosts import start_hoster

pytestmark = pytest.mark.timeout(120)


@contextlib.asynccontextmanager
async def serve_mesh_tiny(features):
    """Run two hosters of mesh-tiny; gives the addresses of the first."""
    async with contextlib.AsyncExitStack() as stack:
        serves = []
        first, directory, addresses = await start_hoster(
            stack, serves, (0, 4), (), features=features
        )
        second, _, _ = await start_hoster(stack, serves, (4, 8), addresses[:1], features=features)
        await directory.fetch_from_records([first.peer_id, second.peer_id])
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(serve) for serve in serves]
            yield addresses
            for task in running:
                task.cancel()


@pytest.fixture
def generate(request, capsys):
    """Return a function that asks a swarm and gives exit code, stdout and stderr."""
    thread = LoopThread("hosters")
    addresses, _ = thread.open(lambda: serve_mesh_tiny(getattr(request, "param", "r")))

    def run(*options):
        line = ["generate", default_question().question, "--initial-peers", addresses[0], *options]
        with pytest.raises(SystemExit) as ended:
            run_app(app, line, name="mesh")
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    yield run
    thread.close()


def check(capsys, *line):
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["receipt", "check", *line], name="mesh")
    return ended.value.code, capsys.readouterr()


def test_a_receipt_is_a_new_private_file_that_the_check_takes(generate, capsys, tmp_path):
    file = tmp_path / "answer.receipt"
    code, out, talk = generate("--receipt", str(file), "--max-blocks-per-hop", "4")
    assert code == 0 and len(out.split()) > 3
    assert talk.splitlines() == [f"receipt in {file}: 2 of 2 hops signed; it holds"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, checked = check(capsys, str(file))
    assert code == 0 and checked.out.count("signed 20") == 2
    # Another answer does not replace it, and is not even asked for.
    kept = file.read_bytes()
    code, out, talk = generate("--receipt", str(file))
    assert (code, out) == (1, "") and "replaces no file" in talk and "hint:" in talk
    assert file.read_bytes() == kept
    code, out, talk = generate("--receipt", str(tmp_path / "absent" / "file"))
    assert (code, out) == (1, "") and "no folder" in talk
    # Without the option nothing is signed, and the answer is the same.
    code, plain, talk = generate("--json")
    assert code == 0 and json.loads(plain)["finish_reason"] == "stop" and talk == ""


@pytest.mark.parametrize("generate", [""], indirect=True)
def test_hosters_that_cannot_sign_are_named_with_what_to_do(generate, tmp_path):
    file = tmp_path / "answer.receipt"
    code, out, talk = generate("--receipt", str(file))
    assert (code, out) == (1, "") and not file.exists()
    sentence, hint = talk.splitlines()
    assert "no server of blocks 0:8 signs receipts" in sentence
    assert hint.startswith("hint: ask without it")
