"""Hidden states that a session sent, and tickets: pure, with their bounds."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from keys.peer import PeerId
from mesh.inference.kept_states import KeptBudget, KeptStates, PageStates, Payer
from mesh.inference.tickets import MAX_REFILLS, Ticket, TicketChain
from mesh.inference.wire import HiddenRows
from mesh.model.capacity import PAGE_TOKENS

ROW = 4
PEERS = [PeerId(bytes([number]) * 32) for number in range(1, 9)]


def make_rows(first, end, mark=0):
    data = b"".join(bytes([(place + mark) % 256] * ROW) for place in range(first, end))
    return HiddenRows(end - first, "bfloat16", data)


def test_rows_are_read_as_they_were_sent_and_later_ones_replace_the_rest():
    kept = KeptStates(KeptBudget())
    kept.note(0, make_rows(0, 10))
    kept.note(10, make_rows(10, 13))
    kept.note(11, make_rows(11, 15, mark=100))
    assert kept.read(0, 11) == make_rows(0, 11)
    assert kept.read(11, 15) == make_rows(11, 15, mark=100)
    kept.cut(4)
    assert kept.covers(0, 4) and not kept.covers(0, 5)
    with pytest.raises(ValueError, match="not kept"):
        kept.read(2, 5)


def test_pages_that_a_session_begins_with_are_followed_by_its_rows():
    budget = KeptBudget()
    for cut in (None, 2 * PAGE_TOKENS, PAGE_TOKENS + 3, 5, 0):
        kept = KeptStates(budget)
        pages = [make_rows(i * PAGE_TOKENS, (i + 1) * PAGE_TOKENS) for i in range(2)]
        kept.begin(pages)
        end = 2 * PAGE_TOKENS if cut is None else cut
        if cut is not None:
            kept.cut(cut)
        kept.note(end, make_rows(end, end + 7))
        assert kept.read(0, end + 7) == make_rows(0, end + 7)
        assert kept.read(max(0, end - 3), end + 2) == make_rows(max(0, end - 3), end + 2)
        assert budget.used == (end + 7) * ROW
        kept.drop()
        assert budget.used == 0


@pytest.mark.parametrize("limit", ["session", "total"])
def test_a_bound_drops_the_session_that_reaches_it_and_gives_its_bytes_back(limit):
    budget = KeptBudget(limit=100 * ROW, session_limit=(20 if limit == "session" else 1000) * ROW)
    other, kept = KeptStates(budget), KeptStates(budget)
    other.note(0, make_rows(0, 5 if limit == "session" else 85))
    kept.note(0, make_rows(0, 15))
    kept.note(15, make_rows(15, 21))
    assert not kept.covers(0, 1) and budget.used == (other.end - other.start) * ROW
    kept.note(0, make_rows(0, 1))
    assert not kept.covers(0, 1)


@pytest.mark.parametrize("position", [3, 12])
def test_rows_that_do_not_follow_drop_what_is_kept(position):
    budget = KeptBudget()
    kept = KeptStates(budget)
    kept.note(5, make_rows(5, 10))
    kept.note(position, make_rows(position, position + 1))
    assert not kept.covers(5, 6) and budget.used == 0


def test_states_of_pages_are_bounded_and_the_oldest_go():
    states = PageStates(limit=3 * PAGE_TOKENS * ROW)
    keys = [bytes([number]) * 32 for number in range(5)]
    for number, key in enumerate(keys):
        states.put(key, make_rows(number * PAGE_TOKENS, (number + 1) * PAGE_TOKENS), PEERS[0])
    assert states.used == 3 * PAGE_TOKENS * ROW
    assert states.find(keys[1:3]) is None
    assert [page.data[0] for page in states.find(keys[2:])] == [32, 48, 64]


def test_a_peer_that_fills_the_pages_drops_its_own_and_leaves_those_of_others():
    states = PageStates(limit=3 * PAGE_TOKENS * ROW)
    keys = [bytes([number]) * 32 for number in range(8)]
    page = make_rows(0, PAGE_TOKENS)
    states.put(keys[0], page, PEERS[0])
    for key in keys[1:]:
        states.put(key, page, PEERS[1])
    assert states.find([keys[0], *keys[-2:]]) == (page, page, page)
    assert states.used == 3 * PAGE_TOKENS * ROW and not any(key in states for key in keys[1:-2])
    states.clear()
    states.put(keys[1], page, PEERS[1])
    assert states.used == PAGE_TOKENS * ROW


def test_only_a_later_ticket_of_the_same_chain_goes_on():
    chain, other = TicketChain(), TicketChain()
    tickets = [chain.make_next() for _ in range(MAX_REFILLS + 1)]
    assert not chain.left
    with pytest.raises(ValueError, match="no further"):
        chain.make_next()
    first, strange = tickets[0], other.make_next()
    assert all(later.follows(first) for later in tickets[1:])
    assert tickets[5].follows(tickets[2]) and not tickets[2].follows(tickets[5])
    assert not first.follows(first) and not strange.follows(first)
    seen = tickets[3]
    forged = [replace(seen, index=4), replace(seen, index=5), replace(seen, link=bytes(32))]
    forged.append(Ticket(strange.answer_id, 4, tickets[4].link))
    assert not any(ticket.follows(seen) for ticket in forged)
    assert tickets[1].link.hex() not in repr(tickets[1])


def test_a_session_that_ends_while_its_last_step_is_noted_gives_all_bytes_back():
    """The compute thread sends a step at the moment at which the event loop drops the rows."""
    budget, enders = KeptBudget(), []
    kept = KeptStates(budget)
    take = budget.take

    def take_slowly(*told):
        taken = take(*told)
        if not enders:
            enders.append(threading.Thread(target=kept.drop))
            enders[0].start()
            enders[0].join(timeout=0.3)
        return taken

    budget.take = take_slowly
    kept.note(0, make_rows(0, 10))
    enders[0].join()
    assert budget.used == 0 and not kept.covers(0, 1)


def fill(budget, payer, rows):
    kept = KeptStates(budget, payer)
    kept.note(0, make_rows(0, rows))
    return kept


def test_one_peer_keeps_no_more_than_its_share_however_many_sessions_it_opens():
    budget = KeptBudget(limit=80 * ROW, session_limit=80 * ROW)
    greedy = [fill(budget, Payer(PEERS[0]), 10) for _ in range(8)]
    assert [kept.covers(0, 10) for kept in greedy] == [True, True, *[False] * 6]
    assert budget.get_used_by(PEERS[0]) == budget.used == 20 * ROW
    hops = [fill(budget, Payer(PEERS[1], passes_on=True), 10) for _ in range(8)]
    assert sum(kept.covers(0, 10) for kept in hops) == 4
    other = fill(budget, Payer(PEERS[2]), 10)
    assert other.covers(0, 10)
    # What is given back may be used again.
    greedy[0].drop()
    assert fill(budget, Payer(PEERS[0]), 10).covers(0, 10)


def test_peers_that_are_no_members_leave_a_part_to_members():
    budget = KeptBudget(limit=80 * ROW, session_limit=80 * ROW)
    strangers = [fill(budget, Payer(peer, is_member=False), 20) for peer in PEERS[:5]]
    assert [kept.covers(0, 20) for kept in strangers] == [True, True, True, False, False]
    assert fill(budget, Payer(PEERS[5]), 20).covers(0, 20)
    for kept in strangers:
        kept.drop()
    assert budget.used == 20 * ROW and not budget.get_used_by(PEERS[0])
    assert fill(budget, Payer(PEERS[6], is_member=False), 20).covers(0, 20)


def test_rows_are_charged_to_the_peer_that_goes_on_with_them():
    budget = KeptBudget(limit=80 * ROW, session_limit=80 * ROW)
    kept = fill(budget, Payer(PEERS[0]), 20)
    kept.charge(Payer(PEERS[1]))
    assert (budget.get_used_by(PEERS[0]), budget.get_used_by(PEERS[1])) == (0, 20 * ROW)
    full = fill(budget, Payer(PEERS[2]), 10)
    kept.charge(Payer(PEERS[2]))
    assert not kept.covers(0, 1) and full.covers(0, 10) and budget.used == 10 * ROW
    kept.note(0, make_rows(0, 1))
    kept.drop()
    assert budget.used == 10 * ROW


def test_every_cut_and_drop_gives_back_what_its_peer_used():
    budget, payer = KeptBudget(), Payer(PEERS[0], is_member=False)
    kept = KeptStates(budget, payer)
    kept.begin([make_rows(0, PAGE_TOKENS)])
    kept.note(PAGE_TOKENS, make_rows(PAGE_TOKENS, PAGE_TOKENS + 5))
    kept.cut(7)
    assert budget.get_used_by(PEERS[0]) == budget.used == 7 * ROW
    kept.note(3, make_rows(3, 4))
    kept.clear()
    assert budget.get_used_by(PEERS[0]) == budget.used == budget._used_by_strangers == 0
