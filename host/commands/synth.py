"""`tokenloom synth`: writes a card's project for the vendor's tools, and runs them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenloom.compiler.errors import TokenloomError
from tokenloom.host import progress

__all__ = ["synth", "told"]


def synth(
    *,
    board: str,
    overrides: Sequence[str],
    out: Path,
    measure: bool = False,
    run: bool = True,
) -> dict[str, Any]:
    """Write the project of a card's kernel; with the vendor's tools on PATH, run them.

    Parameters
    ----------
    board : str
    overrides : sequence of str
    out : Path
        The folder. Files of an earlier run that are no longer needed go away, others stay.
    measure : bool
        Estimate blocks without a saved estimate with Yosys.
    run : bool
        Run the vendor's tools if they are there.

    Returns
    -------
    dict
        ``board``, ``part``, ``platform``, ``out``, ``files``, ``resources`` (name -> used, left,
        share), ``dies``, ``older`` (blocks known by an older text), ``unknown``
        (blocks without an estimate), ``commands`` (step -> command),
        ``ran`` (steps that were run), ``missing`` (tools that are not on PATH), ``hardware``.

    Raises
    ------
    TokenloomError
        When the board has no platform, the chip does not fit it, the folder cannot be written or
        has files of another origin in it, or one of the vendor's tools fails.
    """
    from tokenloom.host.jsonfile import write_json, write_text
    from tokenloom.host.origin import origin
    from tokenloom.host.synth.fit import check_fit, fit
    from tokenloom.host.synth.project import TOP, check_board, commands, project_files
    from tokenloom.host.verilog_folder import MANIFEST, listed, locked
    from tokenloom.hw import config
    from tokenloom.hw.card.control import Control
    from tokenloom.hw.verilog.block import emit
    from tokenloom.sim.simulator import SIMULATED, kernel_verilog

    hardware = config.load(board, overrides)
    check_board(hardware)
    _refuse_others(out)
    identity = origin()
    with progress.step("generate Verilog"):
        texts = kernel_verilog(hardware, identity)
    with progress.step("add up estimates"):
        # Which commit a card names changes none of its figures: they are of the one that is known.
        same = emit(Control(hardware=hardware, identity=SIMULATED))
        found = fit(texts | same, TOP, hardware, measure=measure)
    check_fit(found, hardware)
    files = project_files(hardware, texts, identity, found)
    steps = commands(hardware)
    missing = sorted({c[0] for c in steps.values() if shutil.which(c[0]) is None})
    result: dict[str, Any] = {
        "board": hardware.name,
        "part": hardware.board.part,
        "platform": hardware.board.platform,
        "out": str(out),
        "files": len(files),
        "resources": {
            name: {
                "used": getattr(found.used, name),
                "left": getattr(found.left, name),
                "share": share,
            }
            for name, share in found.shares().items()
        },
        "dies": {str(die): shares for die, shares in found.die_shares().items()},
        "older": list(found.older),
        "unknown": list(found.unknown),
        "commands": {step: " ".join(command) for step, command in steps.items()},
        "ran": [],
        "missing": missing,
        "hardware": hardware.to_dict(),
    }
    blocks = {
        name: {"instances": count, **asdict(one.resources), "depth": one.depth}
        for name, (count, one) in found.blocks.items()
    }
    with locked(out):
        _refuse_others(out)
        old = listed(out, "files")
        # The list first, with the old names too: an interrupted run's files are known as ours.
        write_json(out / MANIFEST, {"files": sorted({*old, *files}), "complete": False})
        for name, text in files.items():
            write_text(out / name, text)
        for name in set(old) - set(files):
            (out / name).unlink(missing_ok=True)
        write_json(
            out / MANIFEST,
            {
                **_but(result, "ran", "out", "missing"),
                "blocks": blocks,
                "files": sorted(files),
                "complete": True,
            },
        )
    if run:
        for step, command in steps.items():
            if command[0] not in missing:
                _run(step, command, out)
                result["ran"].append(step)
            elif step in ("xo", "link"):
                break  # what follows needs it
    return result


def _but(result: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in names}


def _run(step: str, command: list[str], out: Path) -> None:
    """Run one of the vendor's tools in the project; its output goes to the terminal."""
    with progress.step(f"{step}: {' '.join(command)}"):
        done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-4:]
        raise TokenloomError(
            f"step '{step}' failed with exit code {done.returncode}, in {out}: "
            f"{' '.join(command)}: {' / '.join(last)}"
        )


def told(result: dict[str, Any]) -> Iterator[str]:
    """What the command line says of a result."""
    yield f"{result['files']} files in {result['out']} for {result['part']}, {result['platform']}"
    for name, entry in result["resources"].items():
        yield (
            f"  {name.replace('_', ' ')}: {entry['used']:,.0f} of {entry['left']:,.0f} after the "
            f"shell, {entry['share']:.0%}"
        )
    for die, shares in result["dies"].items():
        yield f"  SLR{die}: " + ", ".join(
            f"{share:.0%} {name.replace('_', ' ')}" for name, share in shares.items()
        )
    yield "  all of it Yosys estimates per block, times instances"
    if result["older"]:
        yield (
            f"  {len(result['older'])} blocks have changed since they were estimated: "
            f"{', '.join(result['older'])}; --measure estimates them anew"
        )
    if result["unknown"]:
        yield (
            f"  {len(result['unknown'])} blocks have no estimate, only their memories are counted: "
            f"{', '.join(result['unknown'])}; --measure estimates them"
        )
    for step in result["ran"]:
        yield f"ran {result['commands'][step]}"
    todo = [step for step in result["commands"] if step not in result["ran"]]
    if todo:
        if result["missing"]:
            yield f"not on PATH: {', '.join(result['missing'])}. Where they are, run:"
        else:
            yield "To do:"
        yield f"  cd {result['out']}"
        yield from (f"  {result['commands'][step]}" for step in todo)


def _refuse_others(out: Path) -> None:
    from tokenloom.host.verilog_folder import listed, refuse_others

    refuse_others(out, ("rtl/*.v", "constraints/*.xdc"), listed(out, "files"), "files")
