"""The Python API and the examples over real p2p daemons: exact answers, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mesh.api.server import ServeConfig, open_gateway
from mesh.assets import SHIPPED_MODEL_NAME, default_question, shipped_model_path
from mesh.client import AutoDistributedModelForCausalLM
from mesh.client.auto_config import MeshConfig
from mesh.client.bridge import LoopClosed, LoopThread
from mesh.errors import InvalidRequest, ManifestMismatch, MeshError, ModelError
from tests.support.local_backend import ANSWER, LocalBackend
from tests.support.real_swarm import open_real_swarm

ROOT = Path(__file__).parents[3]
QUESTION = default_question()


@pytest.fixture(scope="module")
def swarm():
    """A network of two hosters for the module: it lives in a thread of its own."""
    thread: LoopThread = LoopThread("swarm")
    (address, engines), bridge = thread.open(lambda: open_real_swarm([(0, 4), (4, 8)]))
    yield address, engines
    thread.close()


def load_example(name: str):
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"examples.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def list_daemons() -> set[int]:
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if child.name() == "p2pd"}


def list_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.timeout(120)
def test_shipped_model_answers_exactly_through_transformers(swarm, tmp_path):
    address, engines = swarm
    before = list_daemons()
    tokenizer = AutoTokenizer.from_pretrained(shipped_model_path())
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION.question}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    with AutoDistributedModelForCausalLM.from_pretrained(
        SHIPPED_MODEL_NAME, initial_peers=[address], max_layers_per_hop=4
    ) as model:
        output = model.generate(**inputs, max_new_tokens=400)
        reference = AutoModelForCausalLM.from_pretrained(shipped_model_path(), dtype=torch.float32)
        assert output.tolist() == reference.generate(**inputs, max_new_tokens=400).tolist()
        model.save_pretrained(tmp_path)
        assert list_daemons() - before
    text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text == QUESTION.answer
    model.close()
    assert list_daemons() == before
    assert "mesh-client" not in list_threads()
    assert all(engine.session_count == 0 for engine in engines)
    with pytest.raises(LoopClosed):
        model.generate(**inputs, max_new_tokens=2)
    with pytest.raises(LoopClosed), model.inference_session(max_length=20):
        model.generate(**inputs, max_new_tokens=2)

    # What was saved says where to dial; transformers' own Auto classes find the way.
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MeshConfig)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    try:
        assert again.config.max_layers_per_hop == 4
        short = again.generate(**inputs, max_new_tokens=8)
        assert short.tolist() == output[:, : short.shape[1]].tolist()
    finally:
        again.close()


def test_forgotten_model_ends_its_daemon(swarm):
    address, _ = swarm
    before = list_daemons()
    model = AutoDistributedModelForCausalLM.from_pretrained(
        SHIPPED_MODEL_NAME, initial_peers=address
    )
    assert list_daemons() - before
    del model
    gc.collect()
    assert list_daemons() == before


def test_program_that_forgets_to_close_still_ends(swarm):
    """Without close, and in the middle of an answer: the exit code is the program's own."""
    address, _ = swarm
    script = (
        "import sys, torch\n"
        "from mesh.client import AutoDistributedModelForCausalLM as Auto\n"
        "model = Auto.from_pretrained('mesh-tiny', initial_peers=[sys.argv[1]])\n"
        "output = model(torch.tensor([[1, 4, 5]]), use_cache=True)\n"
        "import psutil\n"
        "print([c.pid for c in psutil.Process().children() if c.name() == 'p2pd'][0])\n"
        "sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, address], capture_output=True, timeout=150, cwd=ROOT
    )
    assert done.returncode == 7, done.stderr.decode()
    assert not psutil.pid_exists(int(done.stdout.decode().split()[-1]))


def test_wrong_model_and_unknown_options_are_refused_and_leave_nothing(
    swarm, make_checkpoint, chat_checkpoint
):
    address, _ = swarm
    before = list_daemons()
    load = AutoDistributedModelForCausalLM.from_pretrained
    with pytest.raises(ManifestMismatch, match="8 blocks"):
        load(str(chat_checkpoint), initial_peers=[address])
    for options in (
        {"trust_remote_code": True},
        {"dtype": torch.bfloat16},
        {"device_map": "cuda"},
        {"load_in_8bit": True},
        {"quantization_config": {"bits": 4}},
    ):
        with pytest.raises(InvalidRequest) as refused:
            load(SHIPPED_MODEL_NAME, initial_peers=[address], **options)
        assert refused.value.field in options
    with pytest.raises(InvalidRequest, match="initial_peers"):
        load(SHIPPED_MODEL_NAME)
    with pytest.raises(MeshError):
        load(SHIPPED_MODEL_NAME, initial_peers=["nonsense"])
    with pytest.raises(ModelError):
        load("/no/such/folder", initial_peers=[address])
    assert list_daemons() == before
    assert "mesh-client" not in list_threads()


def test_examples_print_the_exact_answer(swarm, capsys):
    address, _ = swarm
    load_example("stream_over_peers").main([address])
    assert capsys.readouterr().out.splitlines()[0] == QUESTION.answer
    # The second question is asked in the same session, in a text that already has one.
    load_example("generate_with_transformers").main(
        [address, "--prompt", QUESTION.question, "--prompt", "And then?"]
    )
    assert capsys.readouterr().out.startswith(QUESTION.answer)


async def test_http_example_prints_the_answer():
    async with open_gateway(ServeConfig(port=0), LocalBackend()) as gateway:
        asking = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "examples" / "stream_over_http.py"),
            gateway.url,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        printed, _ = await asking.communicate()
    assert printed.decode() == ANSWER + "\n"


def test_layers_by_hand_are_transformers_own(capsys):
    load_example("layers_as_library").main([])
    assert capsys.readouterr().out.splitlines()[-1] == "equal"
