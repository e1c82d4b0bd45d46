"""`tokenloom run`: lets the chip answer a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rich.table import Table

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress

__all__ = ["MEMORIES", "check_memory", "run"]

MEMORIES = ("ideal",)
"""Memory models that the simulated board has."""


def check_memory(name: str) -> None:
    """Raise TokenloomError for a memory that does not exist."""
    if name not in MEMORIES:
        raise TokenloomError(
            f"--memory {name}: there is no such memory model; allowed is only 'ideal', which "
            "answers every read in the next cycle"
        )


def run(
    *,
    model: str,
    board: str,
    overrides: Sequence[str],
    prompt: str,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    raw: bool = False,
    ignore_eos: bool = False,
    memory: str = "ideal",
    device: str = "verilator",
    check: bool = False,
    fallback: str | None = None,
    emit: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Generate an answer.

    Parameters
    ----------
    model, board, overrides
        As everywhere.
    prompt : str
    max_tokens : int
        Most tokens to generate.
    temperature, seed
        As in `sim.request.Sampling`.
    raw : bool
        Leave the chat template out.
    ignore_eos : bool
        Go on behind an end-of-text token.
    memory, device : str
        Names.
    check : bool
        Compare every logit and token with the golden model.
    fallback : str, optional
        Model to take when `model` cannot be fetched.
    emit : callable
        Gets the text as it comes.

    Returns
    -------
    dict
        What `--json` writes.

    Raises
    ------
    TokenloomError
        If something of the input is unusable.
    """
    check_memory(memory)
    from tokenloom.host.device import open_device
    from tokenloom.host.prepare import prepare, prompt_ids
    from tokenloom.host.session import (
        Played,
        compare_with_golden,
        play,
        predictor,
        summary,
        with_operation,
    )
    from tokenloom.sim.request import Sampling

    sampling = Sampling(temperature=temperature, seed=seed)
    ready = prepare(model, board, overrides, fallback=fallback)
    ids = prompt_ids(ready.text, prompt, raw=raw)
    if not ids:
        raise TokenloomError("--prompt has no tokens; allowed is a text of at least one")
    room = min(ready.hardware.maxima.positions, ready.checkpoint.shape.positions)
    if len(ids) + max_tokens - 1 > room:
        raise TokenloomError(
            f"--max-tokens {max_tokens}: the prompt has {len(ids)} tokens and the context of "
            f"{ready.name} on hardware '{ready.hardware.name}' {room}; allowed is up to "
            f"{max(0, room - len(ids) + 1)}"
        )
    quantised = ready.quantise()
    with progress.steps() as step:
        chip = open_device(device, quantised, ready.hardware, step)
    try:
        schedule = predictor(chip)
        played: list[Played] = []
        tokens: list[int] = []
        decoder = ready.text.decoder(ids)
        pieces: list[str] = []

        def push(piece: str) -> None:
            pieces.append(piece)
            emit(piece)

        prompt_passes = -(-len(ids) // ready.hardware.array.rows)
        with ExitStack() as bar:
            update = bar.enter_context(progress.counter("prompt passes", prompt_passes))
            eos = () if ignore_eos else ready.text.eos
            answer = play(chip, ids, max_tokens, eos, sampling=sampling, keep_logits=check)
            for one in answer:
                played.append(one)
                update(min(len(played), prompt_passes))
                if one.record.token is not None:
                    bar.close()  # the text now shows how far it is
                    tokens.append(one.record.token)
                    push(decoder.push(one.record.token))
        push(decoder.finish())
        emit("\n")

        records = [one.record for one in played]
        difference = None
        if check:
            with progress.counter("compare with the golden model", len(records)) as update:
                difference = compare_with_golden(quantised, ids, records, update, sampling=sampling)
    finally:
        chip.close()
    if difference is not None:
        with progress.steps() as step:
            difference = with_operation(difference, chip, ids, records, step, sampling=sampling)

    passes = []
    for one in played:
        record = one.record
        predicted = schedule(record.rows, record.pos, record.sample)
        timed = chip.timed
        passes.append(
            {
                "rows": record.rows,
                "pos": record.pos,
                "sample": record.sample,
                "predicted": predicted.cycles,
                "scheduled": record.scheduled,
                "stalled": sum(record.stalls.values()),
                "elapsed": record.elapsed,
                "array_busy": record.beats / record.elapsed if timed else None,
                "stalls": record.stalls,
                "saturated": record.saturated,
                "seconds": round(one.seconds, 6),
            }
        )
    return {
        "model": ready.name,
        "board": ready.hardware.name,
        "device": chip.name,
        "memory": memory,
        "temperature": temperature,
        "seed": seed,
        "prompt_tokens": ids,
        "tokens": tokens,
        "text": "".join(pieces),
        "golden_match": difference is None if check else None,
        "difference": None if difference is None else str(difference),
        "summary": summary(
            played, schedule, clock_mhz=ready.hardware.board.clock_mhz, timed=chip.timed
        ),
        "clock_mhz": ready.hardware.board.clock_mhz,
        "passes": passes,
    }


def show(result: dict[str, Any]) -> None:
    """Print the table of figures to stderr."""
    figures = result["summary"]

    def number(key: str, form: str, unit: str = "") -> str:
        value = figures[key]
        return "-" if value is None else format(value, form) + unit

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    prompt, new = len(result["prompt_tokens"]), len(result["tokens"])
    table.add_row("tokens", f"{prompt} + {new}", "prompt + generated")
    mean = "per token, mean of the decode passes"
    table.add_row("cycles predicted", number("predicted", ",.0f"), mean)
    if result["device"] == "verilator":
        table.add_row("cycles scheduled", number("scheduled", ",.0f"), mean)
        table.add_row("cycles stalled", number("stalled", ",.0f"), mean)
        table.add_row("array busy", number("array_busy", ".1%"), "of the clock cycles of decode")
        table.add_row("simulated clock", number("simulated_khz", ",.1f", " kHz"), "wall time")
    table.add_row("tokens per second", number("tokens_per_second", ",.2f"), "decode, wall time")
    table.add_row(
        f"at {result['clock_mhz']:g} MHz",
        number("board_tokens_per_second", ",.0f", " tokens/s"),
        f"derived from the cycles; {result['memory']} memory",
    )
    if result["golden_match"] is not None:
        table.add_row(
            "golden model", "equal" if result["golden_match"] else "DIFFERS", "logits and tokens"
        )
    progress.console().print(table)
