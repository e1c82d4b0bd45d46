"""Waves of a block: simulated by Amaranth, drawn by WaveDrom."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amaranth.hdl import EnableInserter
from amaranth.sim import Simulator

from tokenloom.hw.catalog.spec import BlockSpec
from tokenloom.hw.verilog.block import Block

__all__ = ["draw", "simulate", "wavedrom_source"]

_PERIOD = 1e-8
_DIGITS = 6  # of a value's hexadecimal digits that are shown


def simulate(spec: BlockSpec, arguments: dict[str, Any]) -> dict[str, list[int]]:
    """Play the block's stimulus.

    Returns
    -------
    dict
        Each of the spec's signals with its value before every rising edge; those that the block
        only has with other parameters are left out.
    """
    block: Block = spec.made(arguments)
    ports = {name: value for name, (value, _) in block.flat_ports().items()}
    missing = [name for name in spec.signals if name not in ports]
    if missing and arguments == spec.arguments():
        raise ValueError(f"block {spec.name!r} has no port {missing[0]!r}; it has {list(ports)}")
    design: Any = EnableInserter({"sync": block.en})(block) if block.belt else block
    seen: dict[str, list[int]] = {name: [] for name in spec.signals if name in ports}

    async def drive(ctx: Any) -> None:
        if block.belt:
            ctx.set(block.en, 1)
        await spec.stimulus(ctx, block, arguments)

    async def record(ctx: Any) -> None:
        chosen = [ports[name] for name in seen]
        for _ in range(spec.cycles):
            _clk, _rst, *values = await ctx.tick().sample(*chosen)
            for name, value in zip(seen, values, strict=True):
                seen[name].append(int(value))

    with _numbers_of_any_size():
        simulator = Simulator(design)
        simulator.add_clock(_PERIOD)
        simulator.add_testbench(drive, background=True)
        simulator.add_testbench(record)
        simulator.run()
    return seen


@contextmanager
def _numbers_of_any_size() -> Iterator[None]:
    """Amaranth writes masks as decimal text; those of 14,285 bits on are beyond Python's limit."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def wavedrom_source(spec: BlockSpec, arguments: dict[str, Any]) -> str:
    """The wave as WaveJSON (https://wavedrom.com)."""
    seen = simulate(spec, arguments)
    ports = {name: len(value) for name, (value, _) in spec.made(arguments).flat_ports().items()}
    lanes: list[dict[str, Any]] = [{"name": "clk", "wave": "p" + "." * (spec.cycles - 1)}]
    for name, values in seen.items():
        wave, shown = "", []
        for cycle, value in enumerate(values):
            if cycle and value == values[cycle - 1]:
                wave += "."
            elif ports[name] == 1:
                wave += str(value)
            else:
                wave += "="
                shown.append(_short(value, ports[name]))
        lanes.append({"name": name, "wave": wave, **({"data": shown} if shown else {})})
    return json.dumps(
        {"signal": lanes, "head": {"text": spec.title, "tick": 0}}, ensure_ascii=False, indent=1
    )


def _short(value: int, bits: int) -> str:
    if bits <= 4 * _DIGITS:
        return str(value)
    text = f"{value & (1 << bits) - 1:x}"
    return text if len(text) <= _DIGITS else f"..{text[-_DIGITS + 2 :]}"


def draw(source: str) -> str:
    """WaveJSON as SVG."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wavedrom

        drawing: str = wavedrom.render(source).tostring()
    return drawing + "\n"
