"""`tokenloom run`: lets the chip answer a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress
from tokenloom.sim.memory import IDEAL, memory_profile

if TYPE_CHECKING:
    from tokenloom.compiler.checkpoint import MatrixKind
    from tokenloom.host.prepare import Prepared

__all__ = ["check_memory", "run"]


def check_memory(name: str, device: str) -> None:
    """Raise TokenloomError for a memory that does not exist, or that the device does not have."""
    memory_profile(name)
    if name != IDEAL and device == "golden":
        raise TokenloomError(
            f"--memory {name}: the golden device has no memory to simulate; allowed is only "
            f"'{IDEAL}'"
        )


def check_room(ready: Prepared, prompt: int, new: int) -> None:
    """Raise TokenloomError if so many tokens of a prompt, or the new ones behind, are too many."""
    room = min(ready.hardware.maxima.positions, ready.checkpoint.shape.positions)
    where = f"the context of {ready.name} on hardware '{ready.hardware.name}'"
    if prompt > room:
        raise TokenloomError(
            f"--prompt has {prompt} tokens, chat template included, and {where} {room}; allowed "
            f"is a prompt of up to {room}"
        )
    # The last new token is not played.
    if prompt + new - 1 > room:
        raise TokenloomError(
            f"--max-tokens {new}: the prompt has {prompt} tokens and {where} {room}; allowed is "
            f"up to {room - prompt + 1}"
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
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    logit_bias: Sequence[tuple[int, float]] = (),
    raw: bool = False,
    ignore_eos: bool = False,
    memory: str = IDEAL,
    memory_seed: int = 1,
    device: str = "verilator",
    guided: bool = False,
    check: bool = False,
    weights: MatrixKind = "q8_0",
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
    temperature, seed, top_k, top_p, min_p, repetition_penalty, logit_bias
        As in `sim.request.Sampling`.
    raw : bool
        Leave the chat template out.
    ignore_eos : bool
        Go on behind an end-of-text token.
    memory, device : str
        Names.
    memory_seed : int
        Of everything about the memory that is left to chance.
    guided : bool
        As for `ChipDevice`.
    check : bool
        Compare every logit and token with the golden model.
    weights : str
        What dense matrices become.
    fallback : str, optional
        Model to take when `model` cannot be fetched.
    emit : callable
        Gets the text as it comes.

    Returns
    -------
    dict
        What `--json` writes. ``complete`` is false after Ctrl-C, once the chip has begun: then the
        passes and tokens are those up to there, and nothing was compared.

    Raises
    ------
    TokenloomError
        If something of the input is unusable.
    """
    check_memory(memory, device)
    if guided and device == "golden":
        raise TokenloomError("--guided builds a simulator; allowed is only --device verilator")
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
    from tokenloom.host.work import pass_work, roof
    from tokenloom.sim.request import Sampling, check_sampler, check_tokens

    choices: dict[str, Any] = {
        "temperature": temperature,
        "seed": seed,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "logit_bias": tuple(logit_bias),
    }
    sampling = Sampling(**choices)  # before the long steps, what is never allowed
    ready = prepare(model, board, overrides, fallback=fallback, weights=weights)
    candidates = ready.hardware.sampler.candidates
    if candidates:
        sampling = Sampling(**choices, candidates=candidates)
    check_sampler(sampling, candidates)
    check_tokens([token for token, _ in logit_bias], ready.checkpoint.shape.vocab)
    ids = prompt_ids(ready.text, prompt, raw=raw)
    if not ids:
        raise TokenloomError("--prompt has no tokens; allowed is a text of at least one")
    check_tokens(ids, ready.checkpoint.shape.vocab)
    check_room(ready, len(ids), max_tokens)
    quantised = ready.quantise()
    with progress.steps() as step:
        chip = open_device(
            device,
            quantised,
            ready.hardware,
            step,
            memory=memory,
            memory_seed=memory_seed,
            guided=guided,
        )
    try:
        schedule = predictor(chip, sampling)
        played: list[Played] = []
        tokens: list[int] = []
        decoder = ready.text.decoder(ids)
        pieces: list[str] = []

        def push(piece: str) -> None:
            pieces.append(piece)
            emit(piece)

        prompt_passes = -(-len(ids) // ready.hardware.array.rows)
        eos = () if ignore_eos else ready.text.eos
        complete = compared = False
        difference = None
        with suppress(KeyboardInterrupt):  # what there is by then is a result, too
            try:
                with ExitStack() as bar:
                    update = bar.enter_context(progress.counter("prompt passes", prompt_passes))
                    for one in play(
                        chip, ids, max_tokens, eos, sampling=sampling, keep_logits=check
                    ):
                        played.append(one)
                        update(min(len(played), prompt_passes))
                        if one.record.token is not None:
                            bar.close()  # the text now shows how far it is
                            tokens.append(one.record.token)
                            push(decoder.push(one.record.token))
            finally:
                push(decoder.finish())
                emit("\n")
            if check:
                records = [one.record for one in played]
                with progress.counter("compare with the golden model", len(records)) as update:
                    difference = compare_with_golden(
                        quantised, ids, records, update, sampling=sampling
                    )
                compared = True
                if difference is not None:
                    with progress.steps() as step:
                        difference = with_operation(
                            difference, chip, ids, records, step, sampling=sampling
                        )
            complete = True
    finally:
        chip.close()

    passes = []
    work = pass_work(quantised, ready.hardware)
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
                "beats": record.beats if timed else None,
                "array_busy": record.beats / record.elapsed if timed else None,
                "stalls": record.stalls,
                "saturated": record.saturated,
                "seconds": round(one.seconds, 6),
                **work(record),
            }
        )
    return {
        "model": ready.name,
        "board": ready.hardware.name,
        "device": chip.name,
        "memory": memory,
        "memory_seed": memory_seed,
        **choices,
        "prompt_tokens": ids,
        "tokens": tokens,
        "text": "".join(pieces),
        "complete": complete,
        "golden_match": difference is None if compared else None,
        "difference": None if difference is None else str(difference),
        "summary": summary(
            played, schedule, clock_mhz=ready.hardware.board.clock_mhz, timed=chip.timed
        ),
        "clock_mhz": ready.hardware.board.clock_mhz,
        "roof": roof(ready.hardware),
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
