"""A stream of answer text is not torn by what happens meanwhile."""

import io

from subnet.localnet.display import PlainDisplay


def test_what_happens_during_the_answer_follows_it() -> None:
    output = io.StringIO()
    display = PlainDisplay(output, results=None)
    display.step("question: why?")
    display.piece("Because ")
    display.head(epoch=3, offset=0, length=20, phase="propose")
    display.head(epoch=3, offset=1, length=20, phase="propose")
    display.piece("so.")
    display.piece("")
    display.step("done")
    assert output.getvalue() == "question: why?\nBecause so.\nepoch 3 begins\ndone\n"


def test_an_answer_without_text_holds_nothing_back() -> None:
    output = io.StringIO()
    display = PlainDisplay(output, results=None)
    display.piece("")
    display.step("done")
    assert output.getvalue() == "done\n"
