"""What applications rely on, against a running swarm: strangers' clients, and a hoster's death."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from mesh.assets import SHIPPED_MODEL_NAME, default_question, shipped_questions
from tests.support.commands import MESH, Command, run_command, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTION = default_question()
KILL_AFTER_PIECES = 10


@dataclass(frozen=True)
class Swarm:
    """A local network with its gateway, and who serves in it."""

    command: Command
    url: str
    logs: Path

    def read_serving(self) -> dict[str, dict[str, Any]]:
        """Return what each hoster said when it began to serve, by peer id."""
        said = {}
        for path in sorted(self.logs.glob("hoster-*.log")):
            for line in path.read_text().splitlines():
                if '"event": "serving"' in line:
                    event = json.loads(line)
                    said[event["peer_id"]] = event
        return said


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    directory = tmp_path_factory.mktemp("applications")
    kept = directory / "kept"
    line = [*MESH, "localnet", "--hosters", "3", "--validators", "1", "--serve", "0"]
    with run_command([*line, "--keep", str(kept)], directory) as command:
        command.wait_for("gateway on http://", timeout_s=180)
        found = re.search(r"gateway on (http://\S+?):? ", command.stdout + command.stderr)
        assert found is not None
        url = found.group(1)
        wait_until(
            lambda: httpx.get(f"{url}/readyz", timeout=10).status_code == 200, "ready gateway"
        )
        yield Swarm(command, url, kept / "logs")
        command.send(signal.SIGINT)
        command.wait_until_gone()


@pytest.fixture
def client(swarm: Swarm) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{swarm.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_official_client_gets_the_exact_answer(client: openai.OpenAI) -> None:
    asked = shipped_questions()[3]
    answer = client.chat.completions.create(
        model=SHIPPED_MODEL_NAME,
        messages=[{"role": "user", "content": asked.question}],
        max_tokens=256,
    )
    assert answer.choices[0].message.content == asked.answer
    assert answer.choices[0].finish_reason == "stop"


def test_the_official_client_streams_the_exact_answer(client: openai.OpenAI) -> None:
    asked = shipped_questions()[4]
    stream = client.chat.completions.create(
        model=SHIPPED_MODEL_NAME,
        messages=[{"role": "user", "content": asked.question}],
        max_tokens=256,
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 3
    assert "".join(pieces) == asked.answer


def test_transformers_generates_over_the_swarm(swarm: Swarm) -> None:
    from transformers import AutoTokenizer

    from mesh.assets import shipped_model_path
    from mesh.client import AutoDistributedModelForCausalLM

    asked = shipped_questions()[5]
    addresses = [event["addresses"][0] for event in swarm.read_serving().values()]
    tokenizer = AutoTokenizer.from_pretrained(shipped_model_path())
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked.question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with AutoDistributedModelForCausalLM.from_pretrained(
        SHIPPED_MODEL_NAME, initial_peers=addresses
    ) as model:
        output = model.generate(**prompt, max_new_tokens=256, do_sample=False)
    new_tokens = output[0][prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(new_tokens, skip_special_tokens=True) == asked.answer


def test_a_hoster_killed_in_the_middle_of_a_long_answer_changes_no_token(
    swarm: Swarm, client: openai.OpenAI
) -> None:
    hosters = swarm.read_serving()
    stream = client.chat.completions.create(
        model=SHIPPED_MODEL_NAME,
        messages=[{"role": "user", "content": QUESTION.question}],
        max_tokens=300,
        stream=True,
        stream_options={"include_usage": True},
    )
    route = stream.response.headers["x-mesh-route"]
    serving = [peer for peer in hosters if peer in route or peer[-8:] in route]
    assert serving, f"no hoster of this swarm in the route {route!r}"
    pieces, usage, reroutes = [], None, None
    for chunk in stream:
        if chunk.choices:
            pieces.append(chunk.choices[0].delta.content or "")
        usage = chunk.usage or usage
        reroutes = (chunk.model_extra or {}).get("mesh", {}).get("reroutes", reroutes)
        if len(pieces) == KILL_AFTER_PIECES:
            os.kill(hosters[serving[0]]["pid"], signal.SIGKILL)
    assert "".join(pieces) == QUESTION.answer
    assert usage is not None and usage.completion_tokens > 200
    assert reroutes is not None and reroutes >= 1
