"""Thoughts and answers, told apart over any division of a text into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.reasoning import ReasoningSplitter, has_thinking_tags, is_left_open


def split(pieces, *, is_open=False):
    splitter = ReasoningSplitter(is_open=is_open)
    parts = [part for piece in pieces for part in splitter.feed(piece)] + splitter.flush()
    assert all(text for _, text in parts)
    thought = "".join(text for is_thought, text in parts if is_thought)
    return thought, "".join(text for is_thought, text in parts if not is_thought)


def cut(text, places):
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]


@pytest.mark.parametrize(
    ("text", "is_open", "thought", "answer"),
    [
        ("<think>\nHm, 2 < 3.\n</think>\n\nYes.\n", False, "Hm, 2 < 3.", "Yes.\n"),
        ("Hm.\n</think>\n\nYes.", True, "Hm.", "Yes."),
        ("<think></think>Yes.", False, "", "Yes."),
        ("\n <think>\n\n</think>\n\nYes.", False, "", "Yes."),
        ("Plain <think> is text.</think>", False, "", "Plain <think> is text.</think>"),
        ("  indented", False, "", "  indented"),
        ("<thin", False, "", "<thin"),
        ("<think>cut in the mid", False, "cut in the mid", ""),
        ("<think>cut in the tag</thi", False, "cut in the tag</thi", ""),
        ("cut", True, "cut", ""),
        ("", True, "", ""),
        ("", False, "", ""),
        ("<think>a</think>b</think><think>c", False, "a", "b</think><think>c"),
    ],
)
def test_thoughts_and_answers_are_told_apart_wherever_the_text_is_cut(
    text, is_open, thought, answer
):
    assert split([text], is_open=is_open) == (thought, answer)
    assert split(list(text), is_open=is_open) == (thought, answer)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "a b", "\n", " "]), max_size=9),
    st.lists(st.integers(0, 99), max_size=8),
    st.booleans(),
)
def test_what_is_told_does_not_depend_on_the_pieces(words, places, is_open):
    text = "".join(words)
    assert split(cut(text, places), is_open=is_open) == split([text], is_open=is_open)


def test_templates_and_open_thoughts_are_recognised():
    assert has_thinking_tags("{% if enable_thinking %}<think></think>{% endif %}")
    assert not has_thinking_tags("<think") and not has_thinking_tags(None)
    assert is_left_open("<|assistant|>\n<think>\n")
    assert not is_left_open("<think>\n\n</think>\n\n") and not is_left_open("")
