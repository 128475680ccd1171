"""Stages that know how much is left."""

from __future__ import annotations

from typing import Any

import pytest

from xlmech.audit.stage_clock import StageClock
from xlmech.execution.shard import Event, peak_bytes


def test_the_clock_knows_what_is_left() -> None:
    said, logged, shown = list[str](), list[tuple[str, dict[str, Any]]](), list[str]()
    clock = StageClock(said.append, log=lambda event, **values: logged.append((event, values)), show=shown.append)
    clock.expect({"leakage": (10, 1.0), "locate": (5, 4.0)})
    assert clock.seconds_left() is None
    with clock("leakage: 10 questions"):
        clock.watch(Event(kind="stage", stage="leakage", total=10))
        assert shown == ["leakage: 0% of the measuring is done"]
        clock.watch(Event(kind="kept", stage="leakage", n=4, total=10))
        assert shown[-1] == "leakage: 13% of the measuring is done"
        clock.watch(Event(kind="shard", stage="leakage", n=2, total=10, seconds=4.0, peak_bytes=7 * 10**12))
        assert clock.seconds_left() == pytest.approx(4 * 2 + 5 * 8)  # 2 s per unit of cost
        assert shown[-1] == "leakage: 20% of the measuring is done, about 48 s left"
        clock.watch(Event(kind="damaged", stage="leakage", n=2, total=10, text="shard 1: it cannot be read"))
    with clock("locate: 5 questions"):
        assert clock.seconds_left() == pytest.approx(40)
        clock.watch(Event(kind="shard", stage="baseline", n=5, total=5, seconds=1.0))
        clock.watch(Event(kind="shard", stage="attribution", n=5, total=5, seconds=9.0))
        clock.watch(Event(kind="failed", stage="attribution", n=1, total=5, text="p1/en/0"))
    assert clock.seconds_left() == 0
    assert said[1] == "leakage: shard 1: it cannot be read" and said[-1] == "attribution: p1/en/0 failed every time"
    assert set(clock.seconds) == {"leakage", "locate"} and clock.peak_mb["leakage"] == 7e6
    assert 10 < clock.peak_mb["locate"] <= peak_bytes() / 1e6 + 1
    assert [event for event, _ in logged].count("stage_done") == 2


def test_stages_that_are_not_counted_say_what_goes_on() -> None:
    """While a checkpoint is written the line says so, and what is measured once more counts from the beginning."""
    shown = list[str]()
    clock = StageClock(show=shown.append)
    clock.expect_again("union", like="ablate")
    with clock("load: the model"):
        assert shown[-1] == "load: the model"
        clock.expect({"leakage": (10, 1.0), "ablate": (20, 1.0)})
    with clock("leakage: 10 questions"):
        clock.watch(Event(kind="shard", stage="leakage", n=10, total=10, seconds=10.0))
        assert shown[-1] == "leakage: 20% of the measuring is done, about 40 s left"
    with clock("ablate 4 neurons"):
        clock.watch(Event(kind="shard", stage="leakage", n=20, total=20, seconds=20.0))
        assert shown[-1] == "ablate: 60% of the measuring is done, about 20 s left"
    with clock("union: ablate all 8 neurons"):
        assert shown[-1] == "union: 60% of the measuring is done, about 20 s left"
        clock.watch(Event(kind="shard", stage="leakage", n=20, total=20, seconds=20.0))
    with clock("export: into mitigated"):
        assert shown[-1] == "export: into mitigated"
    assert not any("100%" in line for line in shown if not line.startswith("union"))


def test_the_items_of_learning_gates_are_steps() -> None:
    """Questions that are asked meanwhile, to see whether to stop, are none."""
    shown = list[str]()
    clock = StageClock(show=shown.append)
    clock.expect({"gates": (10, 1.0)})
    with clock("gates: learn them"):
        clock.watch(Event(kind="kept", stage="gates", n=4, total=10))
        clock.watch(Event(kind="shard", stage="gates", n=1, total=10, seconds=2.0))
        clock.watch(Event(kind="shard", stage="leakage", n=5, total=5, seconds=9.0))
        assert shown[-1] == "gates: 50% of the measuring is done, about 55 s left"
