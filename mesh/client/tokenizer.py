"""Text to tokens and back, and chat messages to a prompt, from the model's own files.

The tokenizers library reads tokenizer.json, or mesh/client/gguf_tokenizer.py builds one from a GGUF
file's metadata; the chat template is rendered in jinja's immutable
sandbox, because it comes with the model and is not ours. No torch, no transformers.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from mesh.client.token_bytes import TokenBytes
from mesh.client.user_text import FINAL_END, UserText, encode_text
from mesh.errors import InvalidRequest, ModelError, ModelFilesMissing, PromptTooLong
from mesh.model.config import read_json_object

MAX_TEMPLATE_CHARACTERS = 1 << 18
MAX_RENDERED_CHARACTERS = 1 << 22
USUAL_TOKEN_CHARACTERS = 8
"""A text with fewer tokens than one for so many characters is encoded whole to be counted."""
CUT_TOKENS = 256
# A template is a small program: besides its own errors it can trip over what it is given.
_TEMPLATE_FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
)
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class ChatTokenizer:
    """One model's tokenizer and chat template. Use :meth:`load`."""

    def __init__(
        self, tokenizer: Tokenizer, *, template: str | None, special_tokens: Mapping[str, str]
    ) -> None:
        self._tokenizer = tokenizer
        self._special_tokens = dict(special_tokens)
        self.chat_template = template
        self._template = _compile(template) if template is not None else None

    @classmethod
    def load(cls, source: Path) -> ChatTokenizer:
        """Read a model folder or a GGUF file. Raises ModelFilesMissing or ModelError."""
        return cls._load_gguf(source) if source.is_file() else cls._load_folder(source)

    @classmethod
    def _load_gguf(cls, path: Path) -> ChatTokenizer:
        # Here only: other tokenizers need no gguf.
        from mesh.client.gguf_tokenizer import load_gguf_tokenizer

        found = load_gguf_tokenizer(path)
        return cls(
            found.tokenizer,
            template=_check_template(found.template),
            special_tokens=found.special_tokens,
        )

    @classmethod
    def _load_folder(cls, folder: Path) -> ChatTokenizer:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelFilesMissing(f"{folder} has no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ModelError(f"tokenizer.json cannot be read: {error}") from error
        config_file = folder / "tokenizer_config.json"
        config = read_json_object(config_file) if config_file.is_file() else {}
        return cls(
            tokenizer,
            template=_find_template(folder, config),
            special_tokens=_find_special_tokens(config),
        )

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return self._tokenizer.get_vocab_size()

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        max_tokens: int | None = None,
    ) -> tuple[int, ...]:
        """Return the token ids of plain text.

        ``split_special_tokens`` lets special tokens in the text be text. Raises InvalidRequest for
        lone surrogates, and PromptTooLong for a text that cannot have ``max_tokens`` or fewer; one
        that is a little longer may come back whole.
        """
        self._check_text("prompt", text, max_tokens)
        if split_special_tokens:
            found = self._user_text.encode_plain(text, add_special_tokens=add_special_tokens)
            return tuple(found)
        return tuple(encode_text(self._tokenizer, text, add_special_tokens=add_special_tokens))

    def _check_text(self, field: str, text: str, max_tokens: int | None) -> None:
        """Raise InvalidRequest, or PromptTooLong before the work of encoding the whole is done."""
        if not _is_unicode(text):
            raise InvalidRequest(field, "this is not Unicode text")
        if max_tokens is None or len(text) <= max_tokens:
            return
        if len(text) > max_tokens * self._longest_token:
            raise PromptTooLong(field, max_tokens)
        head = text[: max_tokens * USUAL_TOKEN_CHARACTERS]
        # The end of a part may be cut otherwise than within the whole, by a few tokens.
        if len(head) < len(text):
            tokens = len(encode_text(self._tokenizer, head, add_special_tokens=False))
            if tokens - CUT_TOKENS > max_tokens:
                raise PromptTooLong(field, max_tokens)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of finished tokens."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        split_special_tokens: bool = True,
        max_tokens: int | None = None,
    ) -> tuple[int, ...]:
        """Return the token ids of messages and of the opening of the assistant's turn.

        ``tools`` and ``options`` are further variables of the template. Special tokens in all of
        them are text, unless ``split_special_tokens`` is false. ``continue_final_message`` ends the
        prompt with the last message's text, which the answer goes on with. Raises InvalidRequest
        where the model has no chat template or the template refuses, and PromptTooLong as
        :meth:`encode` does.
        """
        if self._template is None:
            raise InvalidRequest("messages", "this model has no chat template")
        variables: dict[str, Any] = {"messages": [dict(message) for message in messages]}
        if tools:
            variables["tools"] = [dict(tool) for tool in tools]
        variables = {**(options or {}), **variables}
        mark = self._user_text.choose_mark(variables) if split_special_tokens else None
        if mark is not None:
            variables = self._user_text.break_special(variables, mark)
        if continue_final_message:
            _append_end(variables["messages"])
        text = self._render(
            self._template, {**variables, "add_generation_prompt": add_generation_prompt}
        )
        if continue_final_message:
            text = _cut_at_end(text)
        self._check_text("messages", text, max_tokens)
        if mark is not None:
            return tuple(self._user_text.encode(text, mark))
        # The template writes the special tokens itself.
        return self.encode(text, add_special_tokens=False)

    def _render(self, template: Template, variables: Mapping[str, Any]) -> str:
        try:
            text = template.render({**variables, **self._special_tokens})
        except _TEMPLATE_FAILURES as error:
            raise InvalidRequest("messages", f"the chat template refuses: {error}") from error
        if len(text) > MAX_RENDERED_CHARACTERS:
            raise InvalidRequest("messages", "the conversation is too long")
        return text

    def get_token_bytes(self, token_id: int) -> bytes:
        """Return one token's own bytes, a special token's name. Raises IndexError if unknown."""
        return self._token_bytes.get(token_id)

    def list_token_bytes(self, vocab_size: int) -> list[bytes]:
        """Return the bytes of each of ``vocab_size`` tokens; none for a number without a text."""
        known = min(vocab_size, self._tokenizer.get_vocab_size())
        found = [self._token_bytes.find(token_id) for token_id in range(known)]
        return found + [b""] * (vocab_size - known)

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        """The tokens that stand for no text, such as the ends of turns."""
        added = self._tokenizer.get_added_tokens_decoder()
        return tuple(sorted(number for number, token in added.items() if token.special))

    @cached_property
    def _user_text(self) -> UserText:
        return UserText(self._tokenizer)

    @cached_property
    def _longest_token(self) -> int:
        """The most characters that one token can stand for."""
        return max(map(len, self._tokenizer.get_vocab()), default=1)

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self._tokenizer)

    def start_stream(self) -> TextStream:
        """Return a decoder for tokens as they come."""
        return TextStream(self._tokenizer)


class TextStream:
    """Turns tokens into text as they come.

    A character whose bytes are spread over several tokens appears with the last of them, so no
    piece ever holds a broken one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def feed(self, token_id: int) -> str:
        """Return the text that this token completes, possibly none."""
        return self._stream.step(self._tokenizer, token_id) or ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _append_end(messages: list[dict[str, Any]]) -> None:
    """Mark the end of the last message's text."""
    content = messages[-1].get("content") if messages else None
    if not isinstance(content, str) or not content:
        raise InvalidRequest("continue_final_message", "the last message has no text")
    messages[-1] = {**messages[-1], "content": content + FINAL_END}


def _cut_at_end(text: str) -> str:
    head, found, _ = text.rpartition(FINAL_END)
    if not found:
        raise InvalidRequest("continue_final_message", "the template leaves out the last message")
    return head


def _find_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the chat template: a file beside the tokenizer, or a field of its configuration."""
    file = folder / "chat_template.jinja"
    template: Any = config.get("chat_template")
    if file.is_file() and file.stat().st_size <= MAX_TEMPLATE_CHARACTERS:
        template = file.read_text(encoding="utf-8")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return _check_template(template)


def _check_template(template: Any) -> str | None:
    if template is not None and not isinstance(template, str):
        raise ModelError("the chat template is not text")
    if template is not None and len(template) > MAX_TEMPLATE_CHARACTERS:
        raise ModelError(f"the chat template is longer than {MAX_TEMPLATE_CHARACTERS} characters")
    return template


def _find_special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _SPECIAL_TOKENS:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _compile(template: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise ModelError(f"the chat template is broken: {error}") from error


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """Write JSON as models were trained on it: jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
