"""How suites of public clients are judged, and that what they install is pinned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.strangers.environments import Client, list_clients
from tests.strangers.outcomes import (
    BadList,
    Ended,
    Expected,
    judge,
    read_expected,
    read_report,
)

REFUSED = Expected("refused", "'audio' is not supported", "no model here hears")
CLIENTS = list_clients()

JUNIT = """<testsuites>
<testsuite><testcase classname="suite.TestChat" name="test_a[x]"/>
<testcase classname="suite" name="test_b"><failure message="m">f</failure></testcase>
<testcase classname="suite" name="test_c"><skipped message="no key"/></testcase></testsuite>
<testcase name="a call" classname="test"><failure message="400">why</failure></testcase>
</testsuites>"""


def test_a_listed_refusal_counts_and_the_others_pass() -> None:
    ended = [Ended("audio", "400 'audio' is not supported."), Ended("chat")]
    verdict = judge(ended, {"audio": REFUSED})
    assert verdict.counts == {"refused": 1, "passed": 1} and not verdict.errors


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ([Ended("audio")], "passed, but is listed as refused"),
        ([Ended("audio", "500 Internal Server Error")], "failed without"),
        ([Ended("audio", REFUSED.says), Ended("chat", "no")], "chat: failed"),
        ([Ended("chat")], "no such test"),
        ([], "no test ran"),
    ],
)
def test_any_other_end_is_an_error(ended: list[Ended], said: str) -> None:
    assert any(said in error for error in judge(ended, {"audio": REFUSED}).errors)


def test_reports_of_pytest_and_node_are_read_and_a_skip_is_no_pass(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(JUNIT)
    first, *others = read_report(report)
    assert first == Ended("TestChat::test_a[x]")
    assert [test.name for test in others] == ["test_b", "test_c", "a call"]
    assert all(test.message for test in others)
    assert "no key" in others[1].message


@pytest.mark.parametrize(
    "text",
    ['[a]\nkind = "refused"\nsays = "x"\n', '[a]\nkind = "odd"\nsays = "x"\nbecause = "y"\n'],
)
def test_an_entry_without_a_reason_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "outcomes.toml"
    path.write_text(text)
    with pytest.raises(BadList, match="a needs kind, says and because"):
        read_expected(path)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_names_its_versions_and_locks_all_others(client: Client) -> None:
    named = client.list_named()
    assert named and all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in named.values())
    read_expected(client.folder / "outcomes.toml")
    if client.is_node:
        packages = json.loads(client.lock.read_text())["packages"]
        assert all(entry["integrity"] for place, entry in packages.items() if place)
        assert {name: packages[f"node_modules/{name}"]["version"] for name in named} == named
    else:
        lines = [line for line in client.lock.read_text().splitlines() if line[:1] not in "# "]
        assert all("==" in line for line in lines)
        for name, version in named.items():
            assert any(line.split(" ")[0] == f"{name}=={version}" for line in lines), name
