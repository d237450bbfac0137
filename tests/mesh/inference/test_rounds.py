"""Several windows under way: what counts, what is dropped, and where each range goes back to."""

from __future__ import annotations

from collections import deque

import pytest

from mesh.inference.accounts import Account
from mesh.inference.drafting import Drafter, FlightLength, PromptLookup
from mesh.inference.flight import Flight, SentWindow
from mesh.inference.flight_wire import encode_ahead
from mesh.inference.hops import Departure
from mesh.inference.refusals import RefusalReason, Refused
from mesh.inference.rounds import Rounds, drop_stale
from mesh.inference.steps import EngineSession
from mesh.inference.wire import HiddenRows, Lead, StepFrame, encode_step
from mesh.model.config import LayerSpan
from tests.mesh.inference.test_engine import PEER

PROMPT = 8
IN_FLIGHT = 3
MIDDLE = None


def make_session(length=PROMPT):
    session = EngineSession(1, LayerSpan(2, 4), 200, Account(PEER), [])
    session.length = session.kept = length
    return session


def make_window(position, rows, number=0, *, before=0, first=7):
    hidden = HiddenRows(rows, "float32", bytes(16 * rows))
    return StepFrame(position, hidden, (), (5,) * (rows - 1), Lead(number, first, before))


class Later:
    """A later range that computes what it is to, and as the last one keeps ``right`` rows."""

    def __init__(self, last_token=MIDDLE):
        self.session = make_session()
        self.rounds = Rounds(IN_FLIGHT, PROMPT)
        self.last_token = last_token

    def take(self, window, right=None):
        if not self.rounds.enter(window, self.session, self.last_token):
            return False
        rows = window.hidden.rows if right is None else right
        self.session.length = self.session.kept = window.position + rows
        return True

    def refuse(self, window):
        with pytest.raises(Refused) as raised:
            self.take(window)
        return raised.value.reason


def test_a_middle_range_computes_the_windows_of_a_round_and_goes_back_with_the_next_one():
    middle = Later()
    for place, position in enumerate((8, 12, 16)):
        assert middle.take(make_window(position, 4, before=place))
    assert middle.session.length == 20
    assert middle.take(make_window(9, 2, 1))
    assert middle.session.length == 11
    assert middle.take(make_window(11, 2, 1, before=1))


@pytest.mark.parametrize("position", [7, 8, 21, 0])
def test_a_middle_range_goes_back_within_the_windows_under_way_only(position):
    middle = Later()
    for place, start in enumerate((8, 12, 16)):
        middle.take(make_window(start, 4, before=place))
    assert middle.refuse(make_window(position, 2, 1)) == RefusalReason.WRONG_POSITION


def test_a_middle_range_does_not_go_back_to_windows_that_were_verified_long_ago():
    middle = Later()
    for start in (8, 12, 16, 20):
        middle.take(make_window(start, 4))
    # At most three are under way, of which the oldest begins at 12.
    assert middle.refuse(make_window(12, 2, 1)) == RefusalReason.WRONG_POSITION
    middle.take(make_window(13, 2, 1))


def test_the_last_range_drops_what_follows_a_window_that_failed():
    last = Later(last_token=7)
    assert last.take(make_window(8, 4), right=2)
    assert not last.take(make_window(12, 4, before=1))
    assert not last.take(make_window(16, 4, before=2))
    assert last.session.length == 10
    assert last.take(make_window(10, 4, 1))


def test_the_last_range_drops_windows_that_begin_with_another_token_than_the_chosen_one():
    last = Later(last_token=7)
    assert last.take(make_window(8, 4))
    assert not last.take(make_window(12, 4, before=1, first=6))
    assert not last.take(make_window(16, 4, before=2, first=7))
    assert last.take(make_window(12, 4, 1))


def test_a_window_that_never_left_is_missed_by_no_range():
    """The first range dropped it, and began a round at the end of the one before it."""
    for last_token in (MIDDLE, 7):
        later = Later(last_token)
        later.take(make_window(8, 4))
        assert later.take(make_window(12, 2, 1))


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        (make_window(12, 2, before=IN_FLIGHT), RefusalReason.MALFORMED),
        (make_window(12, 2, 2), RefusalReason.MALFORMED),
        (make_window(11, 2, 1, before=1), RefusalReason.MALFORMED),
        (make_window(13, 2), RefusalReason.WRONG_POSITION),
        (make_window(11, 2), RefusalReason.WRONG_POSITION),
        (make_window(13, 2, 1), RefusalReason.WRONG_POSITION),
        (StepFrame(12, HiddenRows(1, "float32", b"")), RefusalReason.MALFORMED),
    ],
    ids=["too many", "skipped round", "late start", "gap", "overlap", "beyond", "no round"],
)
@pytest.mark.parametrize("last_token", [MIDDLE, 7], ids=["middle", "last"])
def test_windows_that_no_honest_range_sends_are_refused(last_token, window, reason):
    later = Later(last_token)
    later.take(make_window(8, 4))
    assert later.refuse(window) == reason


def test_an_earlier_round_does_not_come_back():
    middle = Later()
    middle.take(make_window(8, 4))
    middle.take(make_window(9, 4, 1))
    assert middle.refuse(make_window(13, 4, 0)) == RefusalReason.MALFORMED


def test_the_last_range_takes_no_wrong_token_where_nothing_is_under_way():
    last = Later(last_token=7)
    last.take(make_window(8, 4))
    assert last.refuse(make_window(12, 2, first=6)) == RefusalReason.MALFORMED
    last = Later(last_token=7)
    last.take(make_window(8, 4), right=1)
    assert last.refuse(make_window(9, 2, 1, first=6)) == RefusalReason.MALFORMED
    last = Later(last_token=7)
    last.take(make_window(8, 4), right=2)
    assert last.refuse(make_window(9, 2, 1)) == RefusalReason.WRONG_POSITION


def test_more_dropped_windows_than_may_be_under_way_are_refused():
    last = Later(last_token=7)
    last.take(make_window(8, 4), right=1)
    for place in range(IN_FLIGHT - 1):
        assert not last.take(make_window(12 + 4 * place, 4, before=1))
    assert last.refuse(make_window(20, 4, before=1)) == RefusalReason.MALFORMED


def test_windows_of_an_old_round_are_forgotten_where_a_new_one_waits():
    frames = [encode_ahead(make_window(8, 2, number), Lead(number, 7, 0)) for number in (1, 1, 2)]
    waiting = deque(frames)
    drop_stale(waiting)
    assert [*waiting] == frames[2:]
    waiting = deque(frames[:2])
    drop_stale(waiting)
    assert [*waiting] == frames[:2]
    mixed = deque([encode_step(make_window(8, 2)), *frames])
    drop_stale(mixed)
    assert len(mixed) == 4
    empty = deque()
    drop_stale(empty)
    assert not empty


def sent(start, *token_ids, guess=None):
    return SentWindow(start, token_ids, guess, Departure(lambda output: None), 0.0)


def make_flight():
    flight = Flight()
    flight.add(sent(10, 1, 2, 3, guess=4))
    flight.add(sent(13, 4, 5, guess=6))
    flight.add(sent(15, 6, 7, guess=8))
    return flight


def test_windows_that_are_right_as_a_whole_land_one_after_the_other():
    flight = make_flight()
    assert flight.ahead == (2, 3, 4, 5, 6, 7) and flight.rows == 7
    landings = [flight.land(ids) for ids in ((2, 3, 4), (5, 6), (7, 8))]
    assert [landing.end for landing in landings] == [13, 15, 17]
    assert [landing.goes_on for landing in landings] == [True, True, False]
    assert all(landing.is_guessed and not landing.dropped for landing in landings)
    assert flight.round == 0 and not flight


@pytest.mark.parametrize("token_ids", [(2, 3, 9), (2, 9), (9,)], ids=["guess", "draft", "first"])
def test_a_window_that_fails_drops_those_behind_it_and_ends_the_round(token_ids):
    flight = make_flight()
    landing = flight.land(token_ids)
    assert landing.dropped == 2 and not landing.goes_on and not landing.is_guessed
    assert landing.end == 10 + len(token_ids)
    assert flight.round == 1 and not flight


def test_a_wrong_guess_that_was_not_sent_ends_no_round():
    flight = Flight()
    flight.add(sent(10, 1, 2, guess=3))
    landing = flight.land((2, 9))
    assert not landing.is_guessed and not landing.dropped and flight.round == 0
    flight.add(sent(12, 9, 2, guess=3))
    assert not flight.land((5,)).dropped and flight.round == 1


def note_all(length, *outcomes):
    found = []
    for is_right in outcomes:
        length.note(is_right=is_right)
        found.append(length.get())
    return found


def test_windows_are_sent_ahead_while_they_are_right_and_only_then():
    length = FlightLength(4)
    assert length.get() == 1
    assert note_all(length, True, True, True, True, True) == [1, 2, 3, 4, 4]
    assert note_all(length, False, False, False) == [1, 1, 1]


@pytest.mark.parametrize("pattern", [(False,), (True, False), (True, False, False)])
def test_where_few_windows_are_right_few_are_sent_ahead(pattern):
    """Every second one at most: then as many count as are dropped."""
    length = FlightLength(4)
    ahead = sum(found - 1 for found in note_all(length, *pattern * 50)[len(pattern) * 10 :])
    assert ahead <= 40 * (len(pattern) == 2)


def test_no_more_windows_are_sent_than_agreed():
    assert note_all(FlightLength(1), *[True] * 9) == [1] * 9
    assert max(note_all(FlightLength(2), *[True] * 9)) == 2


def test_a_draft_that_goes_on_is_that_of_the_text_with_what_is_under_way():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]
    lookup = PromptLookup(text)
    assert lookup.propose(3, ahead=(3, 4)) == PromptLookup([*text, 3, 4]).propose(3) == (5, 6, 7)
    assert lookup.propose(2, ahead=(99,)) == ()
    # The text itself has not grown.
    assert lookup.propose(2) == (3, 4)


def test_a_drafter_guesses_the_token_after_its_draft():
    drafter = Drafter([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2], most=15, in_flight=3)
    assert drafter.draft_more(3) == ((3, 4, 5), 6)
    assert drafter.draft_more(2, ahead=(3, 4, 5, 6)) == ((7, 8), 9)
    assert drafter.draft_more(0) == ((), None)
    assert drafter.in_flight == 1
    drafter.note_flight(is_right=True)
    drafter.note_flight(is_right=True)
    assert drafter.in_flight == 2
