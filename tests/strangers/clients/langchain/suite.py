"""LangChain's own integration tests of a chat model, with langchain-openai at the gateway."""

from __future__ import annotations

import os
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


@pytest.fixture(autouse=True)
def no_web(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be attached comes from here: the suite would fetch it from the web."""

    def answer(url: str, **_: Any) -> httpx.Response:
        return httpx.Response(200, content=b"attached", request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", answer)


class TestChatOpenAI(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "base_url": f"{os.environ['MESH_URL']}/v1",
            "model": os.environ["MESH_MODEL"],
            "api_key": "none",
            "temperature": 0,
            "max_tokens": 160,
            "stream_usage": True,
            # Else a small model goes on to call until its length cuts it.
            "model_kwargs": {"parallel_tool_calls": False},
            "max_retries": 0,
            "timeout": 600,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        # There is one model; here a name in the call counts.
        return os.environ["MESH_MODEL"]

    # What follows is asked for, so that the gateway's refusals are seen.
    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True
