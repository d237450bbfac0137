"""``mesh models``: a table for people, one object for scripts."""

from __future__ import annotations

import json

import pytest

from tests.subnet.cli.test_mesh import fails, run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_it_lists_what_can_be_named(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    code, out, _ = run("models")
    header, shipped, package, broken = out.splitlines()
    assert code == 0 and header.split()[:2] == ["model", "from"]
    assert shipped.split()[:4] == ["mesh-tiny", "shipped", "8", "2048"]
    assert package.startswith("smollm2-135m-instruct") and "Apache-2.0" in package
    assert broken.startswith("broken.gguf") and "cannot be served: " in broken


def test_json_has_every_field(tmp_path):
    code, out, _ = run("models", "--json", "--dir", str(tmp_path))
    listed = json.loads(out)["models"]
    assert code == 0 and listed[0] == {
        "name": "mesh-tiny",
        "source": "shipped",
        "size_bytes": listed[0]["size_bytes"],
        "architecture": "LlamaForCausalLM",
        "max_context": 2048,
        "note": "",
        "problem": None,
        "num_blocks": 8,
        "can_be_served": True,
    }


def test_a_folder_that_is_not_there_is_named(tmp_path):
    sentence, fix = fails("models", "--dir", str(tmp_path / "gone"))
    assert sentence == f"--dir: {tmp_path / 'gone'} is not a folder" and fix


def test_demo_chat_refuses_an_empty_question_and_a_taken_port():
    import socket

    assert fails("demo-chat", "--ask", " ", code=2)[0] == "--ask: the question is empty"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence, _ = fails("demo-chat", "--port", str(port))
    assert sentence == f"port {port} of 127.0.0.1 is in use"
