"""The runs in the order of training, and the noise level that a difference must exceed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from stage2_classifier.reports.run_comparison import RunRow, ScoredRun, changed_fields, compare_run
from stage2_classifier.reports.runs import TrainedRun


@dataclass(frozen=True)
class NoiseLevel:
    """The difference in validation macro-F1 that chance explains."""

    size: float
    name: str  # the source of the size in a few words
    text: str  # A sentence with size and source


@dataclass(frozen=True)
class TimelineEntry:
    """One run in the order of training."""

    number: int  # place in the order, from 1
    row: RunRow
    conclusion: str  # A sentence about the run's result


@dataclass(frozen=True)
class Timeline:
    """All runs in the order in which they finished, and sentences about the order."""

    entries: tuple[TimelineEntry, ...]
    text: tuple[str, ...]


def build_timeline(scored_runs: Sequence[ScoredRun], baseline: ScoredRun) -> Timeline:
    """Return the runs in the order in which they finished; runs without a recorded time are last, by name."""
    first = datetime.min.replace(tzinfo=UTC)
    ordered = sorted(scored_runs, key=lambda s: (s.run.finished is None, s.run.finished or first, s.run.name))
    noise = measure_noise(scored_runs, baseline)
    rows = [compare_run(scored, baseline) for scored in ordered]
    entries = tuple(TimelineEntry(n, row, _conclusion(row, baseline, noise)) for n, row in enumerate(rows, start=1))
    text = [noise.text]
    if untimed := [scored.run.name for scored in ordered if scored.run.finished is None]:
        text.append(f"The time of the last runs was not recorded, so they are by name: {', '.join(untimed)}.")
    return Timeline(entries, tuple(text))


def measure_noise(scored_runs: Sequence[ScoredRun], baseline: ScoredRun) -> NoiseLevel:
    """Return the widest spread between runs that differ in their seed alone, or half the baseline's interval."""
    groups: list[list[ScoredRun]] = []
    for scored in scored_runs:
        same = (group for group in groups if _differ_by_seed(scored.run, group[0].run))
        if (group := next(same, None)) is None:
            groups.append([scored])
        else:
            group.append(scored)
    repeated = [group for group in groups if len({scored.run.config["seed"] for scored in group}) > 1]
    if repeated:
        spreads = [max(s.val_f1 for s in group) - min(s.val_f1 for s in group) for group in repeated]
        size = max(spreads)
        names = ", ".join(scored.run.name for scored in repeated[spreads.index(size)])
        widest = f", the widest of {len(repeated)} such spreads" if len(repeated) > 1 else ""
        source = f"the spread of validation macro-F1 between runs that differ in their seed alone ({names}{widest})"
        hint = "A few seeds show only roughly how large chance is, so a larger difference is a hint: a change that does"
        hint += " nothing is farther away than two runs alike in half of all cases. Repeat both runs with other seeds."
        return NoiseLevel(size, "the spread between seeds", f"Chance is taken to be {size:.3f}: {source}. {hint}")
    low, high = baseline.val_interval or (baseline.low, baseline.high)
    where = "validation crops" if baseline.val_interval else "the crops scored here"
    size, name = (high - low) / 2, baseline.run.name
    source = f"half the width of {name}'s 95% bootstrap interval of macro-F1 on {where}"
    text = f"Chance is taken to be {size:.3f}: {source}, as no two runs differ in their seed alone."
    return NoiseLevel(size, f"half of {name}'s bootstrap interval", text)


def _differ_by_seed(run: TrainedRun, other: TrainedRun) -> bool:
    """Return whether two runs differ in the seed at most; the number of workers does not change the result."""
    return set(changed_fields(run, other)) <= {"seed", "workers"}


def _conclusion(row: RunRow, baseline: ScoredRun, noise: NoiseLevel) -> str:
    """Return a sentence that compares a run's difference with the noise level."""
    if row.scored is baseline:
        return "The reference that all others are compared with."
    if _differ_by_seed(row.scored.run, baseline.run):
        return f"The same settings again: this difference ({row.delta:+.3f}) is chance itself."
    measure = f"{noise.name} ({noise.size:.3f})"
    if abs(row.delta) <= noise.size + 1e-9:  # sums of floats that are equal on paper
        return f"Within chance: {row.delta:+.3f} is no more than {measure}."
    return f"{'Higher' if row.delta > 0 else 'Lower'}: {row.delta:+.3f} is more than {measure}."
