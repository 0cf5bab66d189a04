"""Whatever is lost, doubled or killed on the way from the log to the learner, each record arrives once, in order."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_step_log import HEAD, fields

from armature.errors import ConfigError, InvalidValue
from policies.step_link import RESEND_S, Block, StepReceiver, StepSender
from policies.step_log import CUT, FIRST, TERMINATED, StepLog


@pytest.fixture
def log(tmp_path):
    log = StepLog(tmp_path / "steps.log", HEAD)
    yield log
    log.close()


def fill(log: StepLog, count: int, **changes) -> None:
    for _ in range(count):
        log.append(**{**fields(len(log)), **changes})
    log.sync()


def test_a_block_comes_back_from_its_bytes(log):
    fill(log, 5)
    block = StepSender(log).next_block(0.0)
    found = Block.from_bytes(block.to_bytes())
    assert found == block
    assert found.records["stamp_ns"].tolist() == [0, 100, 200, 300, 400]


def test_every_changed_byte_of_a_block_is_found(log):
    fill(log, 2)
    content = StepSender(log).next_block(0.0).to_bytes()
    begin = content.index(b"\n")
    for place in range(begin + 1, len(content)):
        with pytest.raises(InvalidValue, match="damaged"):
            Block.from_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    for broken in (b"", b"{}\n", content[:begin], content[:-1], b"\xff" + content):
        with pytest.raises(InvalidValue):
            Block.from_bytes(broken)


def test_nothing_is_sent_twice_while_acknowledgements_come_and_everything_again_when_they_do_not(log):
    sender = StepSender(log)
    fill(log, 300)
    assert [len(sender.next_block(0.0).records) for _ in range(2)] == [256, 44]
    assert sender.next_block(0.1) is None
    sender.acknowledge(log.head.log_id, 256, 1.0, asks=False)
    assert sender.next_block(1.0 + RESEND_S) is None
    again = sender.next_block(1.1 + RESEND_S)
    assert (again.first, len(again.records), sender.resent) == (256, 44, 1)


def test_what_a_power_cut_would_take_is_not_sent(log):
    sender = StepSender(log)
    fill(log, 3)
    log.append(**fields(3))
    assert len(sender.next_block(0.0).records) == 3
    assert sender.next_block(0.1) is None
    log.sync()
    assert sender.next_block(0.2).records["stamp_ns"].tolist() == [300]


def test_a_learner_that_asks_is_sent_what_follows_at_once(log):
    sender = StepSender(log)
    fill(log, 10)
    sender.next_block(0.0)
    sender.acknowledge(log.head.log_id, 4, 0.1, asks=True)
    assert sender.next_block(0.2).first == 4


def test_what_is_acknowledged_of_another_log_or_beyond_its_end_does_not_count(log):
    sender = StepSender(log)
    fill(log, 3)
    sender.acknowledge("another", 3, 0.0, asks=False)
    assert sender.taken == 0
    with pytest.raises(InvalidValue, match="4 records acknowledged, the log has 3"):
        sender.acknowledge(log.head.log_id, 4, 0.0, asks=False)


def test_a_record_is_handed_on_when_its_end_is_known(log):
    receiver = StepReceiver(HEAD, 0)
    for flags in (FIRST, 0, FIRST, CUT, FIRST, TERMINATED, FIRST):
        log.append(**{**fields(len(log)), "flags": flags})
    log.sync()
    taken = receiver.take(StepSender(log).next_block(0.0))
    # The second was the last of an episode whose writer was killed.
    assert [int(record["flags"]) for record in taken] == [FIRST, CUT, FIRST, CUT, FIRST, TERMINATED]


def test_steps_of_something_else_are_refused_naming_both_and_a_gap_is_not_taken(log):
    fill(log, 3)
    block = StepSender(log).next_block(0.0)
    with pytest.raises(ConfigError, match="task is 'reach', expected 'lift'"):
        StepReceiver(replace(HEAD, task="lift"), 0).take(block)
    receiver = StepReceiver(HEAD, 0)
    later = Block(block.head, 2, block.data[2 * HEAD.record.itemsize :])
    with pytest.raises(InvalidValue, match="steps from 0 to 2 are missing"):
        receiver.take(later)
    receiver.take(block)
    assert receiver.take(block) == []


class Learner:
    """Takes records into memory, and only what was flushed outlasts its death."""

    def __init__(self) -> None:
        self.safe: list[int] = []
        self.die()

    def die(self) -> None:
        self.taken = list(self.safe)
        self.receiver = StepReceiver(HEAD, len(self.safe))


EVENTS = st.lists(
    st.sampled_from(
        [
            "append",
            "send",
            "lose",
            "double",
            "flush",
            "lose answer",
            "kill learner",
            "kill sender",
            "cut power",
            "sync",
            "wait",
        ]
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS)
def test_each_record_is_taken_exactly_once_whatever_happens(tmp_path_factory, events):
    path = tmp_path_factory.mktemp("link") / "steps.log"
    log, learner, now_s, appended = StepLog(path, HEAD), Learner(), 0.0, 0
    sender = StepSender(log)

    def deliver(block: Block) -> None:
        try:
            learner.taken += [int(record["stamp_ns"]) for record in learner.receiver.take(block)]
        except InvalidValue:
            sender.acknowledge(log.head.log_id, len(learner.safe), now_s, asks=True)

    for event in [*events, *["append", "sync", "send", "flush", "wait"] * 3]:
        if event == "append":
            log.append(**{**fields(appended), "flags": TERMINATED})
            appended += 1
        elif event == "sync":
            log.sync()
        elif event in ("send", "lose", "double"):
            block = sender.next_block(now_s)
            for _ in range({"send": 1, "lose": 0, "double": 2}[event] if block is not None else 0):
                deliver(Block.from_bytes(block.to_bytes()))
        elif event in ("flush", "lose answer"):
            learner.safe = list(learner.taken)
            if event == "flush":
                sender.acknowledge(log.head.log_id, len(learner.safe), now_s, asks=False)
        elif event == "kill learner":
            learner.die()
        elif event in ("kill sender", "cut power"):
            if event == "cut power":
                os.truncate(path, path.stat().st_size - (len(log) - log.synced) * HEAD.record.itemsize)
            os.close(log._file)
            log = StepLog(path, HEAD)
            sender = StepSender(log)
        else:
            now_s += RESEND_S + 1.0
    for _ in range(4):
        now_s += RESEND_S + 1.0
        while (block := sender.next_block(now_s)) is not None:
            deliver(block)
        learner.safe = list(learner.taken)
        sender.acknowledge(log.head.log_id, len(learner.safe), now_s, asks=False)
    assert learner.safe == log.read(0, len(log))["stamp_ns"].tolist()
    assert sender.taken == len(log)
    log.close()
