"""Stop sequences over any division of a text into tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.api.stops import TokenStops
from mesh.inference.tokens import Token


def run(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    matcher = TokenStops(stops)
    shown = ""
    for number, piece in enumerate(pieces):
        shown += "".join(token.text for token in matcher.feed([Token(number, text=piece)]))
        if matcher.is_stopped:
            return shown, True
    return shown + "".join(token.text for token in matcher.flush()), False


@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_what_is_shown_is_the_text_before_the_first_stop(pieces, stops):
    text = "".join(pieces)
    shown, is_stopped = run(pieces, tuple(stops))
    # The first stop to be complete wins, and the earliest start among those.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert is_stopped == bool(ends)
    if not ends:
        assert shown == text
        return
    assert text.startswith(shown)
    assert all(stop not in shown for stop in stops)
    assert any(text.startswith(stop, len(shown)) for stop in stops)


@given(st.lists(st.text("abc", max_size=3), max_size=12))
def test_without_stops_nothing_is_held_back(pieces):
    matcher = TokenStops(())
    for number, piece in enumerate(pieces):
        assert [token.text for token in matcher.feed([Token(number, text=piece)])] == [piece]


def test_a_beginning_of_a_stop_waits_and_is_shown_if_it_was_none():
    matcher = TokenStops(("END",))
    assert matcher.feed([Token(1, text="a E")]) == ()
    assert [token.text for token in matcher.feed([Token(2, text="N"), Token(3, text="X")])] == [
        "a E",
        "N",
        "X",
    ]


def test_a_token_across_the_cut_is_shortened_and_keeps_its_score():
    matcher = TokenStops(("lo w",))
    (token,) = matcher.feed([Token(1, text="hello world", logprob=-1.0)])
    assert (token.text, token.logprob, matcher.is_stopped) == ("hel", -1.0, True)


def test_the_longest_stop_over_many_tokens_stays_quick():
    matcher = TokenStops(("a" * 511 + "b", "a" * 500 + "c"))
    for number in range(2000):
        matcher.feed([Token(number, text="a")])
    assert not matcher.is_stopped
