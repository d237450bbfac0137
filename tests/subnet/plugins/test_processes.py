"""Errors, floats and endless loops of a plug-in end with a named reason, within its time limit."""

import time

import pytest

from consensus.errors import ScorerFailed
from consensus.scorer import HosterWork
from mesh.errors import PluginFailed
from mesh.plugins import PluginKind, find_plugin
from subnet.plugins.chosen import ProbePlugin, make_scorer
from subnet.plugins.process import PluginProcess

WORKS = [HosterWork(1, 0, 2, (10, 10), (4, 4)), HosterWork(2, 0, 1, (10,), (4,))]
TIMEOUT_S = 1.0


@pytest.fixture
def open_process(install):
    """Return what installs a scorer of this code and opens its process."""
    opened = []

    def open_one(code, *, kind=PluginKind.SCORER, group="scorers", entry="score"):
        install("planted", code, **{group: f"planted = planted:{entry}"})
        process = PluginProcess(find_plugin(kind, "planted"), timeout_s=TIMEOUT_S)
        opened.append(process)
        return process

    yield open_one
    for process in opened:
        process.close()


def test_a_scorer_gets_integers_and_gives_integers(open_process):
    score = make_scorer(
        open_process("def score(hosters):\n    return [h.built_in + h.end for h in hosters]\n")
    )
    assert score(WORKS) == [10, 5]


@pytest.mark.parametrize(
    "body, reason",
    [
        ("raise ValueError('no layers')", "it raised ValueError: no layers"),
        ("return [1.5, 2]", "it gave a float, not an integer"),
        ("return [True, 2]", "it gave a bool, not an integer"),
        ("return [float('nan'), 2]", "it gave a float"),
        ("return {1: 2}", "it gave a dict, not a list of integers"),
        ("return None", "it gave a NoneType"),
        ("import os; os._exit(3)", "its process ended without an answer"),
        ("raise SystemExit", "its process ended without an answer"),
        ("return [0] * 1_000_000", "its process ended without an answer|gave no answer"),
        ("return [bytearray(8 << 30)]", "it raised MemoryError"),
    ],
)
def test_a_scorer_that_fails_is_named_with_its_reason(open_process, body, reason):
    score = make_scorer(open_process(f"def score(hosters):\n    {body}\n"))
    with pytest.raises(ScorerFailed, match=reason):
        score(WORKS)


def test_a_scorer_that_takes_for_ever_is_killed_in_time_and_the_next_call_has_another(open_process):
    process = open_process(
        "def score(hosters):\n    while hosters[0].node_id == 1:\n        pass\n    return [7]\n"
    )
    process.start()
    began_at = time.monotonic()
    with pytest.raises(PluginFailed, match="it took longer than 1 s"):
        process.call("score", [{"node_id": 1}])
    assert time.monotonic() - began_at < TIMEOUT_S + 2
    assert process.call("score", [{"node_id": 2}]) == [7]


def test_what_a_plug_in_prints_is_not_its_answer(open_process):
    process = open_process("def score(hosters):\n    print('[9]')\n    return [3]\n")
    assert process.call("score", [{}]) == [3]


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('broken')\n", "import not_there\n", "x = (\n"]
)
def test_a_plug_in_that_cannot_be_imported_is_said_at_start(open_process, code):
    process = open_process(code)
    with pytest.raises(PluginFailed, match="scorer planted: it raised"):
        process.start()


def test_an_entry_point_without_its_attribute_is_said_at_start(open_process):
    with pytest.raises(PluginFailed, match="AttributeError"):
        open_process("x = 1\n").start()


PROBE = """
class Probe:
    def make_prompt(self, draw, vocab_size, max_tokens):
        return {prompt}

    def is_wrong(self, prompt, answer, distance_ppm):
        return {wrong}

probe = Probe()
"""


def open_probe(open_process, **parts):
    code = PROBE.format(**{"prompt": "[1, 2]", "wrong": "distance_ppm > 7"} | parts)
    process = open_process(code, kind=PluginKind.PROBE, group="probes", entry="probe")
    return ProbePlugin(process)


def make_prompt(probe):
    from random import Random

    return probe.make_prompt(Random(1), vocab_size=100, max_tokens=8)


def test_a_probe_makes_prompts_and_judges_answers(open_process):
    probe = open_probe(open_process)
    assert make_prompt(probe) == (1, 2)
    assert not probe.is_wrong((1, 2), (3,), 0.000_007)
    assert probe.is_wrong((1, 2), (3,), 0.000_009)
    assert probe.is_wrong((1, 2), (3,), float("nan"))


@pytest.mark.parametrize("prompt", ["[]", "[100]", "[-1]", "[1] * 9"])
def test_a_prompt_outside_the_model_is_refused(open_process, prompt):
    with pytest.raises(PluginFailed, match="not 1 to 8 token ids of the model"):
        make_prompt(open_probe(open_process, prompt=prompt))


def test_a_verdict_that_is_no_truth_value_is_refused(open_process):
    with pytest.raises(PluginFailed, match="is_wrong gave a int, not True or False"):
        open_probe(open_process, wrong="1").is_wrong((1,), (2,), 0.0)
