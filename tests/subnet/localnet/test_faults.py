"""``mesh localnet --fault``: what may be written, and which process gets which signal when."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from consensus.phases import Phase
from subnet.errors import UsageError
from subnet.localnet.faults import MAX_FAULTS, Action, Fault, FaultPlan, parse_fault, parse_faults

WAIT_S = 10.0


def test_a_fault_says_action_node_and_phase():
    assert parse_fault("kill:2@reveal", num_nodes=6) == Fault(Action.KILL, 2, Phase.REVEAL)
    assert parse_fault("PAUSE:6@Commit", num_nodes=6) == Fault(Action.PAUSE, 6, Phase.COMMIT)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "is not ACTION:NODE@PHASE"),
        ("kill", "is not ACTION:NODE@PHASE"),
        ("kill:2", "is not ACTION:NODE@PHASE"),
        ("kill:2@reveal@commit", "is not ACTION:NODE@PHASE"),
        ("stop:2@reveal", "'stop' is not an action"),
        ("kill:2@sleep", "'sleep' is not a phase"),
        ("kill:7@reveal", "'7' is not a node"),
        ("kill:0@reveal", "'0' is not a node"),
        ("kill:-1@reveal", "'-1' is not a node"),
        ("kill:²@reveal", "'²' is not a node"),
        ("kill:1e3@reveal", "'1e3' is not a node"),
        ("kill:" + "9" * 5000 + "@reveal", "is not a node"),
    ],
)
def test_another_form_is_refused_with_what_is_wrong(text, reason):
    with pytest.raises(UsageError, match=reason) as refused:
        parse_fault(text, num_nodes=6)
    assert refused.value.hint and len(str(refused.value)) < 150


def test_a_node_is_killed_once_and_one_is_left():
    with pytest.raises(UsageError, match="node 2 is killed and has another fault"):
        parse_faults(["kill:2@reveal", "pause:2@score"], num_nodes=4)
    with pytest.raises(UsageError, match="every node is killed"):
        parse_faults([f"kill:{n}@reveal" for n in (1, 2, 3)], num_nodes=3)
    with pytest.raises(UsageError, match="at most|is given"):
        parse_faults(["pause:1@reveal"] * (MAX_FAULTS + 1), num_nodes=3)


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def make_plan(process, *faults):
    told = []
    get_pid = lambda node: process.pid if process.poll() is None else None  # noqa: E731
    return FaultPlan(parse_faults(faults, num_nodes=3), get_pid, told.append, epoch=5), told


def becomes(process, *, is_stopped):
    """Wait for the state: the kernel takes a moment after the signal."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if (psutil.Process(process.pid).status() == psutil.STATUS_STOPPED) == is_stopped:
            return True
        time.sleep(0.01)
    return False


def test_a_node_is_killed_in_its_phase_of_the_first_epoch_and_not_before(sleeper):
    plan, told = make_plan(sleeper, "kill:2@reveal")
    plan.note_phase(4, Phase.REVEAL)
    plan.note_phase(5, Phase.AUDIT)
    assert sleeper.poll() is None and not told
    plan.note_phase(5, Phase.REVEAL)
    assert sleeper.wait(10) == -signal.SIGKILL
    plan.note_phase(5, Phase.REVEAL)
    assert told == ["fault kill:2@reveal: node 2 is killed"] and plan.killed == {2}


def test_a_paused_node_goes_on_when_the_phase_is_over(sleeper):
    plan, told = make_plan(sleeper, "pause:2@commit")
    plan.note_phase(5, Phase.COMMIT)
    plan.note_phase(5, Phase.COMMIT)
    assert becomes(sleeper, is_stopped=True)
    plan.note_phase(5, Phase.AUDIT)
    assert becomes(sleeper, is_stopped=False)
    assert [line.rsplit(maxsplit=2)[1:] for line in told] == [["is", "paused"], ["goes", "on"]]
    assert not plan.killed and plan.nodes == {2}


def test_a_paused_node_goes_on_when_the_network_is_stopped(sleeper):
    plan, _ = make_plan(sleeper, "pause:2@score")
    plan.note_phase(5, Phase.SCORE)
    plan.resume_all()
    assert becomes(sleeper, is_stopped=False)


def test_a_node_that_is_gone_already_is_said(sleeper):
    plan, told = make_plan(sleeper, "kill:2@reveal")
    sleeper.kill()
    sleeper.wait()
    plan.note_phase(5, Phase.REVEAL)
    assert told == ["fault kill:2@reveal: node 2 does not run any more"]
