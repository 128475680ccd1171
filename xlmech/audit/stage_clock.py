"""Time the stages of an audit: what is running, how much is left, seconds and memory of each stage.

How much is left is counted in operations (`xlmech.audit.cost_model`), and turned into time by what was measured so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xlmech.execution.shard import Event, peak_bytes

Say = Callable[[str], None]
_COUNTED = ("leakage", "lens", "attribution", "gates")


class StageClock:
    """Times stages, follows their shards, and knows how much of the whole audit is left.

    Attributes:
        seconds: Per stage that has ended.
        peak_mb: Per stage, the largest resident memory of any process that worked on it, MB.
    """

    def __init__(
        self, say: Say = lambda _: None, *, log: Callable[..., None] = lambda *_, **__: None, show: Say | None = None
    ) -> None:
        """Take what is told: `say` one line per stage, `log` every event, `show` a status line that replaces the last."""
        self.seconds: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}
        self._say = say
        self._log = log
        self._show = show or (lambda _: None)
        self._expected: dict[str, tuple[int, float]] = {}
        self._same_as: dict[str, str] = {}
        self._done: dict[str, int] = {}
        self._spent: dict[str, tuple[float, int]] = {}
        self._stage = ""
        self._label = ""

    def say(self, line: str) -> None:
        """Say one line, and log it."""
        self._say(line)
        self._log("note", text=line)

    def expect(self, items: Mapping[str, tuple[int, float]]) -> None:
        """Announce how many items further stages will have, and what each costs in any common unit."""
        self._expected |= items

    def expect_again(self, stage: str, like: str) -> None:
        """Announce that a stage will have as much to do as another one, whose items are announced before or later."""
        self._same_as[stage] = like

    @contextmanager
    def __call__(self, label: str) -> Iterator[None]:
        """Time one stage, whose name is the label's first word."""
        self._say(label)
        self._label = label
        self._stage = label.split(":")[0].split(" ")[0]
        self._log("stage", stage=self._stage, label=label)
        self._show(self.status())
        started = time.perf_counter()
        _reset_peak()
        yield
        self.seconds[self._stage] = round(time.perf_counter() - started, 1)
        self._note_peak(_peak())
        self._done[self._stage] = self._counted().get(self._stage, (0, 0.0))[0]
        self._log("stage_done", stage=self._stage, seconds=self.seconds[self._stage], peak_mb=self.peak_mb[self._stage])

    def watch(self, event: Event) -> None:
        """Follow one event of `xlmech.execution.resume`."""
        if event.kind == "stage":
            return
        counted = event.stage in _COUNTED and (self._stage != "gates" or event.stage == "gates")  # its items are steps
        if event.kind in ("shard", "kept") and counted:
            self._done[self._stage] = self._done.get(self._stage, 0) + event.n
        if event.kind == "shard":
            seconds, n = self._spent.get(self._stage, (0.0, 0))
            self._spent[self._stage] = (seconds + event.seconds, n + event.n * counted)
            self._note_peak(event.peak_bytes)
        if event.kind in ("damaged", "retry", "failed"):
            self._say(f"{event.stage}: {event.text}" + (" failed every time" if event.kind == "failed" else ""))
        values = {"seconds": round(event.seconds, 3)} if event.seconds else {}
        self._log(
            event.kind, stage=self._stage, task=event.stage, n=event.n, total=event.total, **values, text=event.text
        )
        self._show(self.status())

    def status(self) -> str:
        """Return one line: the stage, the share of all measuring that is done, and the time left as far as it is known.

        Loading and writing a model are not counted: while they go on, the line is the stage's label.
        """
        counted = self._counted()
        if self._stage not in counted:
            return self._label
        total = sum(n * cost for n, cost in counted.values())
        done = sum(min(self._done.get(name, 0), n) * cost for name, (n, cost) in counted.items())
        left = self.seconds_left()
        shown = "" if left is None else f", about {_time(left)} left"
        return f"{self._stage}: {done / total if total else 0.0:.0%} of the measuring is done{shown}"

    def seconds_left(self) -> float | None:
        """Estimate the seconds left from the stages' costs and what each took so far; None before anything was measured."""
        counted = self._counted()
        measured = {name: seconds / n for name, (seconds, n) in self._spent.items() if n and name in counted}
        cost = sum(counted[name][1] * self._spent[name][1] for name in measured)
        if not cost:
            return None
        rate = sum(self._spent[name][0] for name in measured) / cost
        return sum(
            max(0, n - self._done.get(name, 0)) * measured.get(name, cost_of_one * rate)
            for name, (n, cost_of_one) in counted.items()
        )

    def _counted(self) -> dict[str, tuple[int, float]]:
        """Count items and cost of each, per stage that is counted."""
        return self._expected | {
            stage: self._expected[like] for stage, like in self._same_as.items() if like in self._expected
        }

    def _note_peak(self, peak: int) -> None:
        self.peak_mb[self._stage] = max(self.peak_mb.get(self._stage, 0.0), round(peak / 1e6, 1))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _reset_peak() -> None:
    """Start the peak of resident memory anew, which Linux alone lets a process do."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    _cuda("reset_peak_memory_stats")


def _peak() -> int:
    """Return bytes of the largest resident memory since `_reset_peak`, or of CUDA memory if that is more."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="ignore")
        resident = 1024 * int(text.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        resident = peak_bytes()
    return max(resident, int(_cuda("max_memory_allocated") or 0))


def _cuda(name: str) -> Any:
    import torch

    return getattr(torch.cuda, name)() if torch.cuda.is_available() else None
