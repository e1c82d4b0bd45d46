"""`tokenloom estimate`: boards × models × formats, derived."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenloom.compiler.estimate import Estimate

__all__ = ["estimates", "line", "markdown"]

_HEAD = """\
# Estimates

Written by `tokenloom estimate --markdown FILE`; every figure is *derived*, none is a board's. Rates
are for one sequence with a context of {context} tokens (where less fits, that is named). The
boards' figures and their sources: [boards.md](boards.md).

* **memory**: weights and embedding, of what the columns can use. **context**: the longest of one
  sequence and, in brackets, what bounds it: the memory's *capacity*, the *model*, or the *chip*
  (one softmax).
* **peak**: tokens per second when the memory delivers its nominal peak and every byte is one that
  the format needs (Q8_0 8.5, Q4_0 4.5 bits per weight, K and V 8 and a byte per block): the bound
  for any machine with this board. A prefill pass has as many rows as the preset (`array.rows`).
* **chip**: tokens per second of the generated chip. `predict()` plays the program for the model's
  shape, so gaps, drains and attention are in it; at the clock that the preset assumes, with the
  memory at its ceiling and a word per port and cycle. It reads Q4_0 with a minimum per block, at
  5.0 bits per weight. **share**: the format's bytes per second in decode, over the peak.
* **limit** of the chip: *MACs* (each column takes 32 weights per cycle), *schedule* (latencies,
  drains, held beats), *memory port*, or *memory bandwidth*.
* **generated**: *not yet* says what is in the way; rates in brackets leave that out. It
  is about the Verilog; what each board lacks besides stands below.
  Logic resources are not estimated.

{missing}
"""

_COLUMNS = (
    "board", "model", "format", "memory, GB", "context",
    "decode peak", "decode chip", "share", "limit",
    "prefill peak", "prefill chip", "limit", "generated",
)  # fmt: skip


def estimates(
    *,
    models: Sequence[str] = (),
    boards: Sequence[str] = (),
    overrides: Sequence[str] = (),
    context: int,
) -> Iterator[Estimate]:
    """Estimate every board with every model in every format, one after the other.

    Parameters
    ----------
    models, boards : sequence of str
        Names; none means all known shapes, and all presets that are boards one can buy.
    overrides : sequence of str
    context : int

    Raises
    ------
    TokenloomError
        If a name is unknown: before the first estimate.
    """
    from tokenloom.compiler.estimate import FORMATS, estimate
    from tokenloom.compiler.shapes import PUBLIC_MODELS, public_model
    from tokenloom.hw import config

    if not boards:
        boards = [name for name in config.presets() if config.load(name).board.part]
    for board in boards:
        config.load(board, overrides)
    chosen = [public_model(name) for name in models] or list(PUBLIC_MODELS.values())
    return (
        estimate(board, model, name, context=context, overrides=overrides)
        for board in boards
        for model in chosen
        for name in FORMATS
    )


def _rate(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def _size(value: int) -> str:
    return f"{value / 1e9:.2f}" if value >= 1e8 else f"{value / 1e9:.5f}"


def _cells(entry: Estimate, context: int | None = None) -> list[str]:
    """A row of the table; `context` is the one asked for."""
    memory = f"{_size(entry.weight_bytes)} of {_size(entry.capacity_bytes)}"
    longest = f"{entry.longest_context:,} ({entry.context_limit})" if entry.fits else "does not fit"

    def chip(value: float | None) -> str:
        text = _rate(value)
        if value is None:
            return text
        if context is not None and entry.context != context:
            text += f" at {entry.context}"
        return text if entry.generated else f"({text})"

    return [
        entry.board,
        entry.model,
        entry.format,
        memory,
        longest,
        _rate(entry.decode_peak),
        chip(entry.decode),
        "-" if entry.share is None else f"{entry.share:.0%}",
        entry.decode_limit or "-",
        _rate(entry.prefill_peak),
        chip(entry.prefill),
        entry.prefill_limit or "-",
        f"not yet: {entry.reason}" if entry.reason else "yes" if entry.fits else "-",
    ]


def line(entry: Estimate) -> str:
    """An estimate on one line."""
    cells = dict(zip(_COLUMNS[:8], _cells(entry)[:8], strict=True))
    start = f"{entry.board:8} {entry.model:15} {entry.format}"
    status = "" if entry.generated else f"; not yet generated: {entry.reason}"
    if not entry.fits:
        return f"{start}: does not fit, {cells['memory, GB']} GB (derived){status}"
    rates = f"decode {cells['decode chip']} of {cells['decode peak']} tokens/s"
    if entry.decode_limit:
        rates += f" (limit: {entry.decode_limit})"
    rates += f", prefill {_rate(entry.prefill)} of {_rate(entry.prefill_peak)}"
    return f"{start}: {rates}, at {entry.context}, context {cells['context']} (derived){status}"


def markdown(entries: Sequence[Estimate], context: int) -> str:
    """The table with its explanation."""
    rows = [list(_COLUMNS), ["---"] * len(_COLUMNS)]
    rows += [_cells(entry, context) for entry in entries]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    missing = {entry.board: entry.board_missing for entry in entries if entry.board_missing}
    lacks = "".join(f"* `{board}` lacks {what}.\n" for board, what in missing.items())
    return _HEAD.format(context=context, missing=lacks) + table
