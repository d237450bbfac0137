"""``mesh generate`` against real hosters: what it streams, and the receipt that it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import stat

import pytest

from keys.peer import PeerKey
from mesh.assets import default_question
from mesh.client.bridge import LoopThread
from subnet.cli.console import run_app
from subnet.cli.mesh import app
from tests.mesh.client.test_real_hosts import start_hoster

pytestmark = pytest.mark.timeout(120)
QUESTION = default_question().question


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

    def run(*options, question=QUESTION):
        line = ["generate", question, "--initial-peers", addresses[0], *options]
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
    told = json.loads(plain)
    assert code == 0 and told["finish_reason"] == "stop" and talk == ""
    assert told["first_token_s"] > 0 and told["route"][0]["step_ms"] > 0


def test_a_question_comes_from_stdin_and_a_stop_text_ends_the_answer(
    generate, capsys, monkeypatch, tmp_path
):
    question = default_question()
    stop, file = question.answer.split()[4], tmp_path / "answer.receipt"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(question.question.encode())))
    line = ["--stop", stop, "--trace", "--receipt", str(file)]
    code, out, talk = generate(*line, question="-")
    assert code == 0
    assert out == question.answer[: question.answer.index(stop)] + "\n"
    trace, kept = talk.splitlines()
    assert "0:4 at" in trace and " ms" in trace and "the first after" in trace
    # What was computed until then is signed.
    assert "2 of 2 hops signed" in kept and check(capsys, str(file))[0] == 0
    other = tmp_path / "other.receipt"
    generate("--system", "Be brief.", "--max-new-tokens", "2", "--receipt", str(other))
    plain, told = (len(json.loads(f.read_bytes())["prompt_token_ids"]) for f in (file, other))
    assert told > plain


@pytest.mark.parametrize(
    ("line", "raw", "sentence"),
    [
        (["-"], b"\xff", "no text in UTF-8"),
        (["-"], b"x" * (8 << 20) + b"x", "more than"),
        (["hi", "--raw", "--system", "x"], b"", "--raw has no instructions"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(line, raw, sentence, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    # An address without a peer behind it: nothing is dialled before the question is read.
    peer = f"/ip4/127.0.0.1/tcp/9/p2p/{PeerKey.generate().peer_id}"
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["generate", *line, "--initial-peers", peer], name="mesh")
    assert ended.value.code == (2 if "--raw" in line else 1)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("generate", [""], indirect=True)
def test_hosters_that_cannot_sign_are_named_with_what_to_do(generate, tmp_path):
    file = tmp_path / "answer.receipt"
    code, out, talk = generate("--receipt", str(file))
    assert (code, out) == (1, "") and not file.exists()
    sentence, hint = talk.splitlines()
    assert "no server of blocks 0:8 signs receipts" in sentence
    assert hint.startswith("hint: ask without it")
