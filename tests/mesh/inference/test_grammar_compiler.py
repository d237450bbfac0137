"""Grammars: what they allow, what is refused, and that strangers' grammars cost little."""

from __future__ import annotations

import json
import threading
import time
from random import Random

import numpy as np
import pytest

from mesh.api.chat_tools import ToolPlan, choose_grammar
from mesh.api.schemas import MAX_SET_TOKENS, ChatRequest, CompletionRequest
from mesh.api.token_sets import find_token_set
from mesh.api.tool_formats import ToolFormat, ToolStyle
from mesh.errors import InvalidRequest, ModelError
from mesh.inference import grammar_compiler
from mesh.inference.grammar import MAX_GRAMMAR_BYTES, Grammar, GrammarKind
from mesh.inference.grammar_compiler import BadGrammar, GrammarCompiler, Vocabulary

END = 0
BYTES = Vocabulary(
    tokens=[b"<end>", *(bytes([byte]) for byte in range(256))],
    special_token_ids=[END],
    end_token_ids=[END],
)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler():
    return GrammarCompiler(lambda: BYTES, vocab_size=300)


def schema(value):
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(value))


def regex(text):
    return Grammar(GrammarKind.REGEX, text)


def allowed(mask):
    return np.nonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))[0].tolist()


def follow(compiler, grammar, text):
    """Consume a text, each of whose bytes must be allowed; return what may come after it."""
    matcher = compiler.start_now(grammar)
    for byte in text.encode():
        assert byte + 1 in allowed(matcher.compute_mask()), (text, chr(byte))
        matcher.consume(byte + 1)
    return allowed(matcher.compute_mask())


@pytest.mark.parametrize(
    ("asked", "may_come"),
    [
        ({"allowed_token_ids": [70, 5, 6, 7, 290]}, {5, 6, 7, 70, 290}),
        ({"allowed_token_ids": [END, 7]}, {END, 7}),
        ({"suppress_tokens": [5, 6, 7, 290]}, {*range(300)} - {5, 6, 7, 290}),
        ({"suppress_tokens": [END, 299]}, {*range(300)} - {END, 299}),
        ({"allowed_token_ids": [5, 6, 7], "suppress_tokens": [6, 9]}, {5, 7}),
    ],
)
def test_a_set_of_tokens_is_exact_at_every_place(compiler, asked, may_come):
    """The end is a token like others, and so are those of the padded vocabulary."""
    body = ChatRequest(model="m", messages=[{"role": "user", "content": "x"}], **asked)
    _, grammar = find_token_set(body)
    matcher = compiler.start_now(grammar)
    for place in range(40):
        assert set(allowed(matcher.compute_mask())) == may_come
        matcher.consume(sorted(may_come)[place % len(may_come)])


def test_the_largest_set_of_tokens_fits_into_a_grammar():
    scattered = [*range(900_000, 900_000 + 2 * MAX_SET_TOKENS, 2)]
    body = CompletionRequest(model="m", prompt="x", allowed_token_ids=scattered)
    _, grammar = find_token_set(body)
    grammar.check()
    with pytest.raises(ValueError, match="allowed_token_ids"):
        CompletionRequest(model="m", prompt="x", allowed_token_ids=[*scattered, 1])


def test_a_schema_allows_its_values_and_then_only_the_end(compiler):
    assert follow(compiler, schema(SCHEMA), '{"city":"Rom","days":3}') == [END]
    assert ord('"') + 1 in follow(compiler, schema(SCHEMA), "{")
    assert ord("}") + 1 not in follow(compiler, schema(SCHEMA), '{"city":"Rom"')


def test_a_regex_and_a_lark_grammar_with_a_schema_in_it_are_followed(compiler):
    assert follow(compiler, regex("ja|nein"), "nein") == [END]
    lark = Grammar(
        GrammarKind.LARK, f'start: "<call>" value "</call>"\nvalue: %json {json.dumps(SCHEMA)}\n'
    )
    text = '<call>{"city": "Rom", "days": 3}</call>'
    assert follow(compiler, lark, text) == [END]


def make_forced(form, wanted=None):
    tools = ({"type": "function", "function": {"name": "f", "parameters": SCHEMA}},)
    plan = ToolPlan(ToolStyle(form, is_native=True), tools, wanted is None, is_parallel=False)
    _, grammar = choose_grammar(plan, wanted)
    return grammar


@pytest.mark.parametrize(
    ("form", "before"),
    [
        (ToolFormat.HERMES, "<tool_call>\n{"),
        (ToolFormat.HERMES, '<tool_call>\n{"name":"f","arguments":{'),
        (ToolFormat.LLAMA3, "{"),
        (ToolFormat.MISTRAL, "[{"),
    ],
)
def test_blanks_in_a_call_are_few(compiler, form, before):
    """Else a small model writes nothing else until its length cuts it."""
    grammar = make_forced(form)
    assert ord(" ") + 1 in follow(compiler, grammar, before + " " * 15)
    assert ord(" ") + 1 not in follow(compiler, grammar, before + " " * 16)


def test_blanks_are_few_in_a_value_that_stands_beside_calls(compiler):
    grammar = make_forced(ToolFormat.HERMES, ("response_format", schema(SCHEMA)))
    assert ord(" ") + 1 in follow(compiler, grammar, "{" + " " * 15)
    assert ord(" ") + 1 not in follow(compiler, grammar, "{" + " " * 16)


def test_tokens_without_a_text_are_never_allowed(compiler):
    mask = compiler.start_now(regex(r"(?s:.*)")).compute_mask()
    assert max(allowed(mask)) <= 256


def test_two_answers_with_one_grammar_do_not_meet(compiler):
    first, second = compiler.start_now(regex("ab")), compiler.start_now(regex("ab"))
    first.consume(ord("a") + 1)
    assert allowed(first.compute_mask()) == [ord("b") + 1]
    assert allowed(second.compute_mask()) == [ord("a") + 1]


def test_a_token_that_is_not_allowed_is_refused(compiler):
    with pytest.raises(BadGrammar):
        compiler.start_now(regex("ab")).consume(ord("x") + 1)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (schema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum"),
        (schema({"type": "object", "not": {}}), "not"),
        (schema({"$ref": "#/$defs/gone"}), "gone"),
        (schema({"type": "string", "pattern": "("}), "regex"),
        (Grammar(GrammarKind.JSON_SCHEMA, "{"), ""),
        (Grammar(GrammarKind.JSON_SCHEMA, "7"), ""),
        (regex("[a-z"), "unclosed"),
        (Grammar(GrammarKind.LARK, "start: gone\n"), "gone"),
        (Grammar(GrammarKind.LARK, ""), ""),
    ],
)
def test_an_impossible_grammar_is_refused_in_few_words(compiler, grammar, words):
    with pytest.raises(BadGrammar) as raised:
        compiler.start_now(grammar)
    text = str(raised.value)
    assert words in text and 0 < len(text) <= 300 and "\n" not in text


def test_a_recursive_schema_is_followed(compiler):
    nested = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}},
    }
    assert END in follow(compiler, schema(nested), "[[],[[]]]")


@pytest.mark.parametrize(
    "grammar",
    [
        regex(r"(a{1000}){1000}"),
        regex(r"(a{100}){100}"),
        regex(r"(((a{99}){99}){99}){99}"),
        regex(r"(.*a.{200}){4}"),
        schema({"const": "a" * 60000}),
        schema({"type": "string", "pattern": "^(a{1000}){1000}$"}),
        Grammar(GrammarKind.LARK, "start: a{1000}\na: b{1000}\nb: /c/\n"),
        Grammar(GrammarKind.JSON_SCHEMA, '{"items":' * 900 + "{}" + "}" * 900),
        regex("|".join(f"(.*{word}.*{word}.*)" for word in "abcdefghijkl")),
        schema({"type": "string", "minLength": 10**9}),
        schema({"anyOf": [{"type": "string", "pattern": f".*a.{{{n}}}b.*"} for n in range(200)]}),
        schema(
            {"type": "object", "properties": {f"k{n}": {"type": "integer"} for n in range(3000)}}
        ),
        schema({"type": "array", "minItems": 10**8, "items": {"type": "integer"}}),
        Grammar(GrammarKind.LARK, 'start: start start | "a" | start "b" start | \n'),
        Grammar(GrammarKind.LARK, "start: (((((/a*/)*)*)*)*)*\n"),
    ],
    ids=[
        "repeats",
        "most",
        "nested",
        "window",
        "constant",
        "pattern",
        "rules",
        "deep",
        "product",
        "long",
        "patterns",
        "keys",
        "items",
        "ambiguous",
        "stars",
    ],
)
def test_a_grammar_that_is_made_to_be_expensive_costs_little(compiler, grammar):
    began = time.process_time()
    try:
        matcher = compiler.start_now(grammar)
        for _ in range(50):
            matcher.consume(next(iter(allowed(matcher.compute_mask()))))
    except BadGrammar:
        pass
    assert time.process_time() - began < 5.0


def test_a_long_constant_is_told_in_the_models_own_tokens(monkeypatch):
    """Only the beginning of what is forced is read for each mask: no token differs by that."""
    pieces = [b"ab", b"aab", "\u00e9a".encode(), "b\u00e9".encode(), b"ba"]

    def encode(text):
        raw, found = text.encode(), []
        while raw:
            # The last one that fits, not the longest: no greedy reader writes it so.
            token_id = next(i for i in beginning[raw[0]] if raw.startswith(tokens[i]))
            found.append(token_id)
            raw = raw[len(tokens[token_id]) :]
        return found

    tokens = [*BYTES.tokens, *pieces]
    beginning = {
        byte: [i for i in reversed(range(1, len(tokens))) if tokens[i][0] == byte]
        for byte in range(256)
    }
    vocabulary = Vocabulary(tokens, [END], [END], encode)
    text = "".join(Random(7).choices("ab\u00e9", k=1200))
    written = []
    for limit in (grammar_compiler.MAX_FORCED_BYTES, 1 << 20):
        monkeypatch.setattr(grammar_compiler, "MAX_FORCED_BYTES", limit)
        matcher = GrammarCompiler(lambda: vocabulary, vocab_size=300).start_now(
            Grammar(GrammarKind.LARK, f'start: "{text}"\n')
        )
        found = []
        while (after := allowed(matcher.compute_mask())) != [END]:
            (token_id,) = after
            matcher.consume(token_id)
            found.append(token_id)
        written.append(found)
    assert b"".join(tokens[i] for i in written[0]).decode() == text
    assert written[0] == written[1] == encode(text)


def test_compiled_grammars_that_are_kept_are_few(compiler):
    for number in range(100):
        compiler.start_now(regex(f"a{{{number + 1}}}"))
    assert len(compiler._kept) == 64


def test_many_at_once_get_right_answers(compiler):
    found = []

    def work(word):
        found.append((word, follow(compiler, regex(word), word)))

    threads = [threading.Thread(target=work, args=("x" * (n + 1),)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 12 and all(after == [END] for _, after in found)


def test_a_tokenizer_that_cannot_be_read_refuses_the_grammar():
    def fail():
        raise ModelError("no tokenizer.json")

    with pytest.raises(BadGrammar, match="tokenizer"):
        GrammarCompiler(fail, vocab_size=300).start_now(regex("a"))


def test_a_grammar_has_a_size():
    regex("a").check()
    for text in ("", "a" * (MAX_GRAMMAR_BYTES + 1)):
        with pytest.raises(InvalidRequest) as raised:
            regex(text).check()
        assert raised.value.field == "grammar"


@pytest.mark.parametrize(
    "grammar",
    [schema({"$ref": "#"}), regex(r"[^\x00-\U0010FFFF]")],
    ids=["a schema that is only itself", "a regex of no character"],
)
def test_a_grammar_of_no_text_is_refused_in_words(compiler, grammar):
    with pytest.raises(BadGrammar, match="^it allows no text$"):
        compiler.start_now(grammar)


def make_words(count):
    """Return a vocabulary of bytes and of texts that lie in different parts of it."""
    draw = Random(7)
    tokens = dict.fromkeys(BYTES.tokens)
    alphabets = ["abcdefgh ", "AbCd09_", 'a"\\', "ä数🐟z", " \n\t", "09."]
    while len(tokens) < count:
        letters = draw.choices(draw.choice(alphabets), k=draw.randint(1, 20))
        tokens["".join(letters).encode()] = None
    return Vocabulary([*tokens], [END], [END])


@pytest.mark.parametrize(
    "grammar",
    [
        schema(SCHEMA),
        schema({"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3}),
        regex(r"[a-z ]{3,30}\. [0-9]{2,4}"),
        regex(r"(.|\n){0,60}"),
        regex(r"[^b]{1,40}x?"),
    ],
    ids=str,
)
def test_the_parts_of_a_vocabulary_change_no_mask(grammar, monkeypatch):
    vocabulary = make_words(3000)
    compilers = [GrammarCompiler(lambda: vocabulary, vocab_size=3000)]
    compilers[0].start_now(regex("a"))
    monkeypatch.setattr(grammar_compiler, "SLICES", ())
    compilers.append(GrammarCompiler(lambda: vocabulary, vocab_size=3000))
    draw = Random(3)
    for _ in range(8):
        matchers = [each.start_now(grammar) for each in compilers]
        for _ in range(40):
            masks = [matcher.compute_mask() for matcher in matchers]
            assert masks[0].tolist() == masks[1].tolist()
            token_id = draw.choice(allowed(masks[0]))
            if token_id == END:
                break
            for matcher in matchers:
                matcher.consume(token_id)


@pytest.mark.parametrize(
    ("grammar", "told"),
    [
        (
            Grammar(GrammarKind.LARK, 'start: a\na: %json {"not": {}}\n'),
            'Unimplemented keys: ["not"]',
        ),
        (
            Grammar(
                GrammarKind.LARK,
                'start: a\na: %json {"type": "integer", "minimum": 5, "maximum": 3}\n',
            ),
            "Unsatisfiable schema: minimum (5) is greater than maximum (3)",
        ),
        (
            regex("(a"),
            'invalid regex "(a" (in regex): regex parse error: (a ^ error: unclosed group',
        ),
    ],
    ids=["a schema of a tool", "a schema of a tool that nothing fits", "a regex"],
)
def test_an_error_repeats_nothing_of_the_grammar_around_it(compiler, grammar, told):
    with pytest.raises(BadGrammar) as caught:
        compiler.start_now(grammar)
    assert str(caught.value) == told
