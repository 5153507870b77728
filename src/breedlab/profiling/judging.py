"""Apply the profiler's rules to a recording."""

from __future__ import annotations

from dataclasses import replace

from breedlab.config.profiler import ProfilerRule, ProfilerRules
from breedlab.errors import named
from breedlab.profiling.reading import Recording
from breedlab.registry import PROFILER_RULES
from breedlab.verdicts import NOT_ENOUGH, PASSED, TRIGGERED, NotEnough, Verdict, triggered


def judge(recording: Recording, rules: ProfilerRules) -> list[Verdict]:
    """Return the verdict of every rule: the built-in ones first, then those of plugins."""
    recording = replace(recording, min_samples=rules.min_samples)
    return [
        _verdict(PROFILER_RULES.made(name, rules), recording) for name in PROFILER_RULES.names()
    ]


def _verdict(rule: ProfilerRule, recording: Recording) -> Verdict:
    try:
        finding = rule.check(recording)
    except NotEnough as missing:
        return Verdict(rule.title, NOT_ENOUGH, {}, str(missing))
    except Exception as error:  # whatever a plugin's rule does, the others still run
        return Verdict(rule.title, NOT_ENOUGH, {}, f"the rule failed ({named(error)})")
    if not finding.fired:
        return Verdict(rule.title, PASSED, finding.metrics, rule.ok_message)
    meaning = finding.meaning or rule.meaning
    steps = list(finding.steps)
    return Verdict(rule.title, TRIGGERED, finding.metrics, meaning, rule.advice, steps=steps)


def headline(recording: Recording, verdicts: list[Verdict]) -> str:
    """Return a one-line summary of the recording."""
    parts = []
    if len(recording.system.t):
        parts.append(f"CPU {recording.system.cpu.mean():.0f}%")
    if recording.system.gpu.size:
        parts.append(f"GPU {recording.system.gpu.mean():.0f}%")
    if total := float(recording.steps.total_ms.sum()):
        waiting = recording.steps.parts["data"].sum() / total
        parts.append(f"{waiting:.0%} waiting for data")
    return f"profile: {', '.join(parts) or 'nothing recorded'}; {triggered(verdicts)}"
