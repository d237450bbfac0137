"""Chat templates in a sandbox, and text that never breaks inside a character."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mesh.client.stops import StopMatcher
from mesh.client.tokenizer import ChatTokenizer
from mesh.errors import InvalidRequest, ModelError, ModelFilesMissing


@pytest.fixture
def tokenizer(chat_checkpoint):
    return ChatTokenizer.load(chat_checkpoint)


@pytest.mark.parametrize("text", ["plain", "grüße, 你好, 👩‍👩‍👧!", "é" * 20, "  two spaces"])
def test_streamed_text_never_holds_a_broken_character(tokenizer, text):
    stream = tokenizer.start_stream()
    pieces = [stream.feed(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_not_shown(tokenizer):
    stream = tokenizer.start_stream()
    tokens = tokenizer.encode("ok👍")
    assert "".join(stream.feed(token) for token in tokens[:-1]) == "ok"


def test_special_tokens_are_not_shown(tokenizer):
    stream = tokenizer.start_stream()
    assert "".join(stream.feed(token) for token in (1, *tokenizer.encode("a"), 2)) == "a"


def test_chat_messages_are_rendered_by_the_models_template(tokenizer):
    token_ids = tokenizer.encode_chat([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(token_ids) == "user: hi\nassistant:"
    assert token_ids[0] == 1
    assert token_ids.count(1) == 1


def test_template_refusal_is_the_callers_mistake(tokenizer):
    with pytest.raises(InvalidRequest, match="no such role"):
        tokenizer.encode_chat([{"role": "nobody", "content": "hi"}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{% set _ = messages.append(1) %}",
        "{% for i in range(10**9) %}x{% endfor %}",
    ],
)
def test_hostile_template_cannot_leave_the_sandbox(chat_checkpoint, template):
    plain = ChatTokenizer.load(chat_checkpoint)
    hostile = ChatTokenizer(plain._tokenizer, template=template, special_tokens={})
    with pytest.raises(InvalidRequest, match="refuses"):
        hostile.encode_chat([{"role": "user", "content": "hi"}])


def test_model_without_template_or_tokenizer_says_so(chat_checkpoint, tmp_path):
    plain = ChatTokenizer.load(chat_checkpoint)
    bare = ChatTokenizer(plain._tokenizer, template=None, special_tokens={})
    with pytest.raises(InvalidRequest, match="no chat template"):
        bare.encode_chat([{"role": "user", "content": "hi"}])
    with pytest.raises(ModelFilesMissing):
        ChatTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read"):
        ChatTokenizer.load(tmp_path)


def test_stop_strings_across_pieces():
    stops = StopMatcher(["END", "N!"])
    shown = [stops.feed(text) for text in ("aE", "N", "xEN", "D tail")]
    assert shown == ["a", "", "ENx", ""]
    assert stops.is_stopped
    other = StopMatcher(["END"])
    assert other.feed("the EN") + other.flush() == "the EN"


def test_thin_client_imports_neither_torch_nor_transformers():
    code = (
        "import sys, mesh.client.client; "
        "print([name for name in ('torch', 'transformers', 'hivemind') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
