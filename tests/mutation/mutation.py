"""Mutants of a block against its own bench.

Yosys lists single faults of the block (an input stuck, inverted, or inverted when another bit is
set), and puts all of them into one netlist, where a plusarg chooses one. So a block is built once
and every mutant is a run. A mutant that the bench does not notice is either equivalent to the block
(see `equivalence`) or a gap in the bench.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocotb_test.simulator import Verilator

from tests.mutation.equivalence import Verdict, compare, machine
from tokenloom.hw.verilog.block import Block, emit
from tokenloom.hw.verilog.build_folder import build_root
from tokenloom.sim.bench import bench_folder
from tokenloom.sim.yosys import yosys

__all__ = ["Mutants", "mutate"]

# No block has ports of these names.
_PORT, _CHOSEN = "mutant", "mutant_number"
# A test that failed is enough: the bench's other ones need not run.
_FAILED = re.compile(r"cocotb\.regression .* failed$")
_KINDS = ("equivalent", "alike", "survived", "unnoticed")
_FOREVER = 3600.0
_UNKNOWN = Verdict(proved=False, differs=None, cycles=0)


@dataclass(frozen=True, kw_only=True)
class Mutants:
    """What became of a block's mutants.

    Attributes
    ----------
    killed : int
    equivalent : list of str
        Proved to be so, as Yosys names them.
    alike : list of str
        Neither proved nor told apart from the block in the cycles that were searched.
    survived : list of str
        They differ from the block, and the bench does not notice it.
    unnoticed : list of str
        Not looked into, as enough were killed whatever these are.
    """

    killed: int
    equivalent: list[str]
    alike: list[str]
    survived: list[str]
    unnoticed: list[str]

    @property
    def share(self) -> float:
        """Killed ones of all that are not proved to be equivalent."""
        others = len(self.alike) + len(self.survived) + len(self.unnoticed)
        return self.killed / max(1, self.killed + others)

    def __str__(self) -> str:
        lines = [
            f"{self.killed} killed, {len(self.survived)} survived, {len(self.alike)} alike, "
            f"{len(self.equivalent)} equivalent, {len(self.unnoticed)} not looked into: "
            f"{self.share:.1%}"
        ]
        for name in _KINDS:
            lines += [f"{name}: {fault}" for fault in getattr(self, name)]
        return "\n".join(lines)


def mutate(
    block: Block,
    module: str,
    *,
    count: int,
    within: Block | None = None,
    seed: int = 1,
    parameters: dict[str, Any] | None = None,
    enough: float = 1.0,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Mutants:
    """Run the bench `module` on `count` mutants of a block.

    Parameters
    ----------
    block : Block
        Mutated with all blocks below it.
    module : str
        Dotted name of the bench.
    within : Block, optional
        What the bench is for, when that is a block with `block` somewhere below it; then the
        blocks below `block` are left as they are, and all of its instances have the same fault.
    count, seed : int
        Of the faults that Yosys draws.
    parameters : dict, optional
        As `run_block` takes them.
    enough : float
        The share from which on no more of the unnoticed are looked into.
    told : callable
        Gets the mutants done and their number.

    Raises
    ------
    AssertionError
        When the bench fails on the block without a fault.
    """
    top = block.module_name
    whole = within or block
    texts = emit(whole)
    with tempfile.TemporaryDirectory(dir=_scratch()) as scratch:
        folder = Path(scratch)
        for name, text in texts.items():
            (folder / f"{name}.v").write_text(text)
        read = "".join(f"read_verilog {name}.v\n" for name in sorted(texts))
        flat = "flatten\n" if within is None else ""
        # What a memory holds at first is no logic.
        logic = f"{top}/c:* {top}/t:$meminit* %d"
        yosys(
            f"{read}hierarchy -top {top}\nproc\n{flat}opt_clean -purge\nwrite_rtlil whole.il\n"
            f"mutate -list {2 * count} -seed {seed} -o list.txt {logic}",
            folder,
        )
        listed = (folder / "list.txt").read_text().splitlines()
        faults = [line for line in listed if _possible(line)][:count]
        width = len(faults).bit_length()
        lines = [
            f"mutate -ctrl {_PORT} {width} {number} {fault.removeprefix('mutate ')}"
            for number, fault in enumerate(faults, 1)
        ]
        (folder / "mutate.ys").write_text("\n".join(lines) + "\n")
        yosys(
            f"read_rtlil whole.il\nscript mutate.ys\nrename {top} {top}_mutants\n"
            f"select {top}_mutants\nwrite_verilog -noattr -selected mutants.v",
            folder,
        )
        chosen = {
            **({} if within is None else texts),
            f"{top}_mutants": (folder / "mutants.v").read_text(),
            top: _chooser(block, width),
        }
        killed = _play(whole.module_name, chosen, module, parameters, len(faults), told)
        found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
        unnoticed = [number for number in range(1, len(faults) + 1) if number not in killed]
        if unnoticed:
            design = machine(f"read_rtlil whole.il\nscript mutate.ys\nhierarchy -top {top}", folder)
        for number in unnoticed:
            fault = faults[number - 1]
            if len(killed) >= enough * (len(faults) - len(found["equivalent"])):
                found["unnoticed"].append(f"{number}: {fault}")
                continue
            # The graph knows no clocks.
            clock = "-port CLK" in fault
            verdict = _UNKNOWN if clock else compare(design, _PORT, number)
            found[verdict.kind].append(f"{number} ({verdict}): {fault}")
    return Mutants(killed=len(killed), **found)


def _possible(fault: str) -> bool:
    """Not so: a clock's other edge, where the inputs change, and a read without a clock that can be
    disabled, which Verilog has no words for.
    """
    read = "$memrd" in fault or "$auto$mem.cc" in fault
    return not ("-mode inv" in fault and "-port CLK" in fault or read and "-port EN " in fault)


def _scratch() -> Path:
    folder = build_root() / "mutation"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _chooser(block: Block, width: int) -> str:
    """A module with the block's ports, in which +mutant=N chooses a fault; 0 is none."""
    ports: list[tuple[str, int, bool]] = [("clk", 1, True), ("rst", 1, True)]
    if block.belt:
        ports.append(("en", 1, True))
    for name, (value, flow) in block.flat_ports().items():
        ports.append((name, len(value), flow.name == "In"))
    # Declared one by one, as Amaranth does it: so `bench_folder` finds them.
    declared = [
        f"  {'input' if inward else 'output'} wire {f'[{bits - 1}:0] ' if bits > 1 else ''}{name};"
        for name, bits, inward in ports
    ]
    connected = [f"    .{name}({name})" for name, _, _ in ports]
    return "\n".join(
        [f"module {block.module_name}({', '.join(name for name, _, _ in ports)});", *declared,
         f"  reg [{width - 1}:0] {_CHOSEN};",
         f'  initial if (!$value$plusargs("{_PORT}=%d", {_CHOSEN})) {_CHOSEN} = 0;',
         f"  {block.module_name}_mutants mutants (",
         ",\n".join([*connected, f"    .{_PORT}({_CHOSEN})"]), "  );", "endmodule", ""]
    )  # fmt: skip


def _play(
    top: str,
    texts: dict[str, str],
    module: str,
    parameters: dict[str, Any] | None,
    count: int,
    told: Callable[[int, int], None],
) -> set[int]:
    """The mutants whose bench fails, hangs or crashes."""
    # All faults together look like loops and overlapping cases; one alone is neither.
    with bench_folder(top, texts, parameters, flags=["-Wno-fatal"]) as build:
        simulator = Verilator(module=module, compile_only=True, **build)
        simulator.run()
        program = [str(Path(build["sim_build"]) / top)]
        env = {**simulator.env, "TOKENLOOM_BENCH": build["extra_env"]["TOKENLOOM_BENCH"]}

        def passes(number: int, seconds: float | None) -> bool:
            with tempfile.TemporaryDirectory(dir=_scratch()) as scratch:
                results = Path(scratch) / "results.xml"
                with subprocess.Popen(
                    [*program, f"+{_PORT}={number}"],
                    cwd=scratch, env={**env, "COCOTB_RESULTS_FILE": str(results)},
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                ) as run:  # fmt: skip
                    watch = threading.Timer(seconds or _FOREVER, run.kill)
                    watch.start()
                    for line in run.stdout or ():
                        # What the block itself makes the bench say is of interest.
                        if not number:
                            print(line, end="")
                        elif _FAILED.search(line):
                            run.kill()
                    watch.cancel()
                # A run that was killed may have begun to write its results.
                if run.returncode < 0 or not results.exists():
                    return False
                root = ET.parse(results).getroot()
                cases = list(root.iter("testcase"))
                bad = [*root.iter("failure"), *root.iter("error")]
                return bool(cases) and not bad

        start = time.monotonic()
        assert passes(0, None), f"{module} fails on {top} without a fault"
        limit = 20 + 10 * (time.monotonic() - start)
        killed = set()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            numbers = range(1, count + 1)
            fine = pool.map(lambda number: passes(number, limit), numbers)
            for number, unnoticed in zip(numbers, fine, strict=True):
                if not unnoticed:
                    killed.add(number)
                told(number, count)
    return killed
