"""Policy without tensors: tables of pages, ranks, admission, pages of equal text."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.inference.pages import (
    FreePages,
    NoPages,
    PageBook,
    Rank,
    compute_page_keys,
)
from mesh.inference.refusals import Refused
from mesh.model.capacity import PAGE_TOKENS, count_pages

PAGES = 12


def open_session(book, serial, *, is_member=True, priority=0, promised=0):
    return book.open(serial, Rank(is_member, priority, -serial), promised=promised)


def make_text(pages, start=0):
    return list(range(start, start + pages * PAGE_TOKENS))


def test_a_table_that_grows_gets_neighbours():
    book = PageBook(64, stranger_pages=64)
    tables = [open_session(book, serial) for serial in range(4)]
    for pages in range(1, 9):
        for serial in range(4):
            book.grow(serial, pages)
    for table in tables:
        assert list(table) == list(range(table[0], table[0] + 8))


def test_free_pages_become_one_run_again():
    free = FreePages(8)
    taken = [free.take(after=None) for _ in range(8)]
    assert sorted(taken) == list(range(8)) and free.count == 0
    for page in taken:
        free.put(page)
    assert [free.take(after=page - 1 if page else None) for page in range(8)] == list(range(8))


def test_the_youngest_gives_its_pages_back_and_never_an_older_one():
    book = PageBook(6, stranger_pages=6)
    old, middle, young = (open_session(book, serial) for serial in (1, 2, 3))
    for serial in (1, 2, 3):
        book.grow(serial, 2)
    assert book.grow(1, 3) == (3,)
    assert (len(old), len(middle), len(young)) == (3, 2, 0)
    assert book.grow(1, 4) == ()
    with pytest.raises(NoPages):
        book.grow(2, 3)
    assert (len(old), len(middle)) == (4, 2)
    with pytest.raises(NoPages):
        book.grow(3, 1)
    book.close(2)
    assert book.grow(3, 2) == ()


def test_members_and_higher_priority_go_before_age():
    book = PageBook(3, stranger_pages=3)
    for serial, is_member, priority in ((1, False, 9), (2, True, 0), (3, True, 5)):
        open_session(book, serial, is_member=is_member, priority=priority)
        book.grow(serial, 1)
    assert book.grow(3, 2) == (1,)
    assert book.grow(3, 3) == (2,)


def test_strangers_take_one_anothers_pages_where_the_rest_is_kept_for_members():
    book = PageBook(8, stranger_pages=4)
    for serial in (1, 2):
        open_session(book, serial, is_member=False)
        book.grow(serial, 2)
    assert book.grow(1, 3) == (2,)
    with pytest.raises(NoPages):
        book.grow(2, 2)
    open_session(book, 3)
    assert book.grow(3, 5) == ()
    with pytest.raises(Refused, match="kept for"):
        open_session(book, 4, is_member=False, promised=2)


def test_what_is_promised_is_not_promised_again():
    book = PageBook(8, stranger_pages=8)
    open_session(book, 1, promised=5)
    with pytest.raises(Refused, match="busy"):
        open_session(book, 2, promised=4)
    open_session(book, 2, promised=3)
    book.grow(1, 5)
    book.close(1)
    open_session(book, 3, promised=5)


def test_equal_text_is_shared_and_stays_after_its_session():
    book = PageBook(4, stranger_pages=4)
    keys = compute_page_keys(b"salt", make_text(2))
    first = open_session(book, 1)
    book.grow(1, 2)
    book.publish(1, keys)
    second = open_session(book, 2)
    assert book.count_published(keys) == 2
    book.share(2, keys)
    assert list(second) == list(first)
    book.close(1)
    assert book.free_pages == 2
    book.close(2)
    assert book.free_pages == 4
    assert book.count_published(keys) == 2


def test_the_least_recently_used_page_goes_first_and_a_texts_end_before_its_beginning():
    book = PageBook(4, stranger_pages=4)
    old, new = compute_page_keys(b"", make_text(2)), compute_page_keys(b"", make_text(2, start=7))
    for serial, keys in ((1, old), (2, new)):
        open_session(book, serial)
        book.grow(serial, 2)
        book.publish(serial, keys)
        book.close(serial)
    open_session(book, 3)
    found = []
    for pages in (1, 2, 3):
        book.grow(3, pages)
        found.append((book.count_published(old), book.count_published(new)))
    assert found == [(1, 2), (0, 2), (0, 1)]


def test_keys_name_all_the_text_before_and_the_salt():
    text = make_text(3)
    keys = compute_page_keys(b"salt", text)
    assert len(keys) == 3
    assert compute_page_keys(b"salt", [*text, 1]) == keys
    assert compute_page_keys(b"salt", text[:-1]) == keys[:2]
    other = compute_page_keys(b"salt", [9, *text[1:]])
    assert not set(other) & set(keys)
    assert not set(compute_page_keys(b"pepper", text)) & set(keys)


def test_pages_are_counted_in_whole():
    assert [count_pages(tokens) for tokens in (0, 1, PAGE_TOKENS, PAGE_TOKENS + 1)] == [0, 1, 1, 2]


class Books(RuleBasedStateMachine):
    """Sessions of two texts come, grow, publish and go in any order."""

    def __init__(self):
        super().__init__()
        self.book = PageBook(PAGES, stranger_pages=8)
        self.tables = {}
        self.keys = {}
        self.ranks = {}
        self.serial = 0

    @rule(member=st.booleans(), priority=st.integers(0, 1), promised=st.integers(0, 3))
    def open(self, member, priority, promised):
        self.serial += 1
        rank = Rank(member, priority, -self.serial)
        try:
            table = self.book.open(self.serial, rank, promised=promised)
        except Refused:
            return
        self.tables[self.serial], self.ranks[self.serial] = table, rank
        self.keys[self.serial] = compute_page_keys(b"", make_text(PAGES, start=self.serial % 2))

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), pages=st.integers(1, PAGES))
    def grow(self, data, pages):
        serial = data.draw(st.sampled_from(sorted(self.tables)))
        before = {other: list(table) for other, table in self.tables.items()}
        try:
            victims = self.book.grow(serial, pages)
        except NoPages:
            assert {other: list(table) for other, table in self.tables.items()} == before
            return
        assert list(self.tables[serial])[: len(before[serial])] == before[serial]
        assert len(self.tables[serial]) == max(pages, len(before[serial]))
        for other, table in self.tables.items():
            assert (other in victims) == (list(table) != before[other] and other != serial)
            if other in victims:
                assert not table and self.ranks[other] < self.ranks[serial]

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), full=st.integers(0, PAGES))
    def publish(self, data, full):
        serial = data.draw(st.sampled_from(sorted(self.tables)))
        self.book.publish(serial, self.keys[serial][:full])

    @precondition(lambda self: any(not table for table in self.tables.values()))
    @rule(data=st.data())
    def share(self, data):
        empty = sorted(serial for serial, table in self.tables.items() if not table)
        serial = data.draw(st.sampled_from(empty))
        found = self.book.count_published(self.keys[serial])
        self.book.share(serial, self.keys[serial][:found])

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def close(self, data):
        serial = data.draw(st.sampled_from(sorted(self.tables)))
        self.book.close(serial)
        del self.tables[serial]

    @invariant()
    def every_page_is_at_one_place(self):
        book = self.book
        held = Counter(page for table in self.tables.values() for page in table)
        places = [*book._free, *book._idle, *held]
        assert sorted(places) == list(range(PAGES))
        assert book.free_pages == PAGES - len(held)
        assert held == book._references
        assert all(count == 1 or page in book._key_of for page, count in held.items())
        assert {page: key for key, page in book._page_of.items()} == book._key_of
        assert set(book._idle) <= set(book._key_of)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
