"""Drafts: looked up in the text, longer while they are accepted, none where they do not pay."""

from __future__ import annotations

import random

import pytest

from mesh.inference.drafting import (
    COMPARED,
    FIRST_LENGTH,
    FIRST_PAUSE,
    MAX_LOOKBACK,
    MAX_MISALIGNED,
    MAX_MISSES,
    MAX_PAUSE,
    NGRAM_SIZES,
    Drafter,
    DraftLength,
    PromptLookup,
)

MOST = 15


def propose_slowly(text, most):
    """The same rule, place by place."""
    for size in NGRAM_SIZES:
        for start in range(len(text) - size - 1, -1, -1):
            if text[start : start + size] == text[-size:]:
                draft = list(text)
                for place in range(start + size, start + size + most):
                    draft.append(draft[place])
                return tuple(draft[len(text) :])
    return ()


@pytest.mark.parametrize("alphabet", [(1, 2), (0, 1, 256, 65536), tuple(range(6))])
def test_a_draft_is_what_followed_the_longest_end_where_it_stood_last(alphabet):
    rng = random.Random(7)
    found = 0
    for _ in range(300):
        text = rng.choices(alphabet, k=rng.randrange(1, 60))
        drafted = PromptLookup(text).propose(8)
        assert drafted == propose_slowly(text, 8)
        found += bool(drafted)
    assert found > 20


def test_a_text_that_grows_gives_the_drafts_of_the_whole():
    rng = random.Random(8)
    text = rng.choices(range(5), k=20)
    lookup = PromptLookup(text)
    for _ in range(20):
        more = rng.choices(range(5), k=rng.randrange(4))
        text += more
        lookup.extend(more)
        assert lookup.propose(5) == PromptLookup(text).propose(5) == propose_slowly(text, 5)


def test_a_repeated_phrase_is_drafted_again_and_again():
    assert PromptLookup([7, 1, 2, 3, 1, 2, 3]).propose(7) == (1, 2, 3, 1, 2, 3, 1)
    assert PromptLookup([9, 9, 9]).propose(4) == (9, 9, 9, 9)


def test_an_end_that_is_new_gives_no_draft():
    assert PromptLookup([1, 2, 3, 4]).propose(4) == ()
    assert PromptLookup([1]).propose(4) == ()
    assert PromptLookup([1, 2, 1, 2]).propose(0) == ()


def test_a_search_goes_back_so_far_and_no_farther():
    rare, filler = [500, 501, 502], [*range(1000, 1000 + 64)] * (MAX_LOOKBACK // 64)
    assert PromptLookup([*rare, *filler, 500, 501]).propose(1) == ()
    assert PromptLookup([*rare, *filler[: MAX_LOOKBACK - 8], 500, 501]).propose(1) == (502,)


@pytest.mark.parametrize(("hits", "draft"), [(4, (77,)), (MAX_MISALIGNED + 1, ())])
def test_hits_between_two_tokens_end_a_search_soon(hits, draft):
    """The bytes of the last two tokens stand across each three of the middle."""
    last = [0x00020001, 0x00040003]
    middle = [0x00010009, *[0x00030002, 0x00010004] * hits]
    assert PromptLookup([*last, 77, *middle, *last]).propose(1) == draft


def note_all(length, steps):
    for drafted, accepted in steps:
        length.note_draft(drafted, accepted, 0.1)


def test_drafts_grow_while_all_of_them_are_accepted_and_shrink_when_not():
    length = DraftLength(MOST)
    lengths = []
    for accepted in (4, 8, 15, 15, 3, 1, 0):
        length.note_draft(length.get(), accepted, 0.1)
        lengths.append(length.get())
    assert lengths == [8, 15, 15, 15, 7, 3, 1]


def test_a_short_draft_that_fits_does_not_shrink_what_is_allowed():
    length = DraftLength(MOST)
    note_all(length, [(4, 4), (8, 8), (1, 1)])
    assert length.get() == MOST


def test_drafting_pauses_after_misses_and_comes_back():
    length = DraftLength(MOST)
    note_all(length, [(length.get(), 0)] * MAX_MISSES)
    for _ in range(FIRST_PAUSE):
        assert length.get() == 0
        length.note_plain(0.1)
    assert length.get() == FIRST_LENGTH


def test_the_cost_of_drafts_that_never_fit_is_bounded():
    length, rows, steps = DraftLength(MOST), 0, 10_000
    for _ in range(steps):
        drafted = length.get()
        rows += drafted
        if drafted:
            length.note_draft(drafted, 0, 0.1)
        else:
            length.note_plain(0.1)
    assert rows < 0.06 * steps
    assert length._pause == MAX_PAUSE


def test_drafts_that_take_longer_than_they_save_pause():
    """Two tokens a step, but each step takes as long as three."""
    length = DraftLength(MOST)
    length.note_plain(0.1)
    for _ in range(COMPARED):
        assert length.get() > 0
        length.note_draft(4, 1, 0.3)
    assert length.get() == 0
    faster = DraftLength(MOST)
    faster.note_plain(0.1)
    for _ in range(10):
        faster.note_draft(4, 1, 0.15)
    assert faster.get() > 0


def test_what_a_step_costs_is_measured_before_the_first_draft_if_that_is_wanted():
    length = DraftLength(MOST, compares_first=True)
    assert length.get() == 0
    length.note_plain(0.1)
    assert length.get() == FIRST_LENGTH


def test_a_drafter_never_drafts_beyond_its_room():
    drafter = Drafter([1, 2, 3, 1, 2, 3], most=MOST)
    assert drafter.draft(2) == (1, 2)
    assert drafter.draft(0) == ()
    assert len(drafter.draft(100)) == FIRST_LENGTH
    drafter.note([1, 2, 3, 1, 2], drafted=4, elapsed_s=0.1)
    assert drafter.draft(100) == (3, 1, 2, 3, 1, 2, 3, 1)
