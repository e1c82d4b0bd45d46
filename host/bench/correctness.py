"""Correctness: the chip's bits and cycles against golden model and prediction."""

from __future__ import annotations

from tokenloom.host.bench.registry import Figure, group
from tokenloom.host.bench.runs import STORY, Run, prepared, smollm2, stories, tiny, tinystories

_row = group("Correctness")


def _golden(run: Run, tokens: int) -> Figure:
    sampled = [one.record for one in run.played if one.record.sample]
    logits = sum(len(record.logits) for record in sampled if record.logits is not None)
    detail = (
        f"{run.where}; prompt of {run.prompt} tokens in passes of up to {run.rows} rows, every "
        f"logit of {logits} rows and every token"
    )
    if run.difference is not None:
        equal = sum(one.record.sample for one in run.played[: run.difference.number])
        return Figure(value=equal, detail=f"{detail}; {run.difference}", ok=False)
    return Figure(value=len(sampled), detail=detail, ok=len(sampled) == tokens)


@_row("rtl_golden_stories260k", "tokens equal", "256 of 256", how="simulated")
def rtl_golden_stories260k() -> Figure:
    """Bits of stories260K."""
    return _golden(stories(), 256)


@_row("rtl_golden_tinystories", "tokens equal", "64 of 64", how="simulated")
def rtl_golden_tinystories() -> Figure:
    """Bits of TinyStories-656K."""
    return _golden(tinystories(), 64)


@_row("rtl_golden_smollm2", "tokens equal", "32 of 32", how="simulated")
def rtl_golden_smollm2() -> Figure:
    """Bits of SmolLM2."""
    return _golden(smollm2(), 32)


@_row("rtl_golden_tiny", "tokens equal", "256 of 256", how="simulated")
def rtl_golden_tiny() -> Figure:
    """Bits of the project's own model."""
    return _golden(tiny(), 256)


# Shapes of the array, by what differs from `mini`.
_SHAPES = ((), ("array.columns=4",), ("array.rows=1",), ("array.drain=1", "norm_lanes=16"))


@_row("shapes_tiny", "shapes equal", f"{len(_SHAPES)} of {len(_SHAPES)}", how="simulated")
def shapes_tiny() -> Figure:
    """The same bits whatever the array's shape, greedy and drawn."""
    import numpy as np

    from tokenloom.host import progress
    from tokenloom.sim.chip_device import ChipDevice
    from tokenloom.sim.request import GREEDY, Sampling

    answers = []
    for overrides in _SHAPES:
        ready, model = prepared("tiny", "mini", overrides)
        with progress.steps() as step:
            chip = ChipDevice(model, ready.hardware, step)
        answer: list[tuple[int | None, bytes]] = []
        for sampling in (GREEDY, Sampling(temperature=0.8, seed=7)):
            for record in chip.generate(ready.text.encode(STORY), 24, sampling=sampling):
                if record.sample:
                    logits = np.asarray(record.logits)[-1]
                    answer.append((record.token, logits.tobytes()))
        chip.close()
        answers.append(answer)
    equal = sum(answer == answers[0] for answer in answers)
    shapes = ", ".join(" ".join(shape) or "mini" for shape in _SHAPES)
    detail = (
        f"tiny, ideal memory, 24 tokens greedy and 24 at temperature 0.8: every token and the "
        f"logits it was chosen from, on {shapes}"
    )
    return Figure(value=equal, detail=detail, ok=equal == len(_SHAPES))


# Cycles.


def _prediction(run: Run) -> Figure:
    from tokenloom.sim.measured import schedule_differences

    total = wrong = lengths = 0
    first = ""
    for number, (one, measured) in enumerate(zip(run.played, run.measured, strict=True)):
        record = one.record
        schedule = run.schedule(record.rows, record.pos, record.sample)
        total += len(schedule.operations)
        found = schedule_differences(schedule, measured)
        whole = sum(entry["unit"] == "PASS" for entry in found)
        lengths += bool(whole)
        wrong += len(found) - whole
        if found and not first:
            first = f"; first in pass {number}: {found[0]}"
    detail = (
        f"{run.where}; first and last belt cycle of {total:,} operations in {len(run.played)} "
        f"passes, {wrong} differ; length or beats of {lengths} passes differ{first}"
    )
    share = 100 * (1 - wrong / total) if total else 0.0
    return Figure(value=share, detail=detail, ok=bool(total) and not wrong and not lengths)


@_row("prediction_stories260k", "% of operations equal", "100 %", how="simulated")
def prediction_stories260k() -> Figure:
    """Cycles of stories260K."""
    return _prediction(stories())


@_row("prediction_tinystories", "% of operations equal", "100 %", how="simulated")
def prediction_tinystories() -> Figure:
    """Cycles of TinyStories-656K."""
    return _prediction(tinystories())


@_row("prediction_smollm2", "% of operations equal", "100 %", how="simulated")
def prediction_smollm2() -> Figure:
    """Cycles of SmolLM2."""
    return _prediction(smollm2())
