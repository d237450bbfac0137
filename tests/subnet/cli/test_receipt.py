"""``mesh receipt check``: what it says of receipts that hold, and of those that do not."""

from __future__ import annotations

import json

import pytest

from subnet.cli.console import run_app
from subnet.cli.mesh import app
from tests.support.answer_receipts import KEYS, make_receipt


@pytest.fixture
def check(capsys, tmp_path):
    """Return a function that checks a receipt and gives exit code, stdout and stderr."""

    def run(receipt, *options):
        file = tmp_path / "receipt.json"
        file.write_text(receipt if isinstance(receipt, str) else json.dumps(receipt))
        with pytest.raises(SystemExit) as ended:
            run_app(app, ["receipt", "check", str(file), *options], name="mesh")
        captured = capsys.readouterr()
        return ended.value.code, captured.out.strip(), captured.err

    return run


def test_hosters_blocks_and_times_are_listed(check):
    code, out, talk = check(make_receipt())
    assert code == 0 and "prompt and tokens hold" in talk
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[1] for line in lines] == [str(key.peer_id) for key in KEYS]
    assert lines[1][0] == "tokens 0:3" and lines[1][2] == "blocks 2:4"
    assert lines[1][3] == "signed 2027-01-15T08:00:00Z"


def test_the_receipts_of_a_gateways_answer_are_checked_as_json(check):
    answer = {"id": "x", "mesh": {"receipts": [make_receipt(), make_receipt((8,))]}}
    code, out, _ = check(answer, "--json")
    found = json.loads(out)["receipts"]
    assert code == 0 and [one["parts"][0]["tokens"] for one in found] == [[0, 3], [0, 1]]
    assert found[0]["complete"] and found[0]["disclosed"]


def test_a_receipt_without_the_prompt_says_so(check):
    hidden = dict.fromkeys(("salt", "prompt_token_ids", "token_ids", "sampling"))
    code, _, talk = check({**make_receipt(), **hidden})
    assert code == 0 and "prompt and tokens are not in the file" in talk


def test_a_part_that_was_lost_is_shown_as_not_signed(check):
    receipt = make_receipt()
    for hop in receipt["parts"][0]["hops"]:
        hop["receipt"] = None
    code, out, talk = check(receipt)
    assert code == 0 and out.count("not signed") == 3 and "signed nothing" in talk


def test_an_edited_receipt_is_one_sentence_with_the_field_and_one_fix(check):
    receipt = make_receipt()
    receipt["parts"][0]["hops"][1]["receipt"]["signed_s"] += 1
    code, out, talk = check(receipt)
    assert code == 1 and out == ""
    assert "parts[0].hops[1].receipt.signature" in talk and str(KEYS[1].peer_id) in talk
    assert "hint:" in talk and "Traceback" not in talk


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"mesh": {}}', '{"version": 1, "network_id": "'])
def test_what_is_no_receipt_is_a_sentence(check, text):
    code, out, talk = check(text)
    assert code == 1 and out == "" and "receipt" in talk and "Traceback" not in talk


def test_a_file_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["receipt", "check", "absent.json"], name="mesh")
    assert ended.value.code == 1 and "absent.json" in capsys.readouterr().err
