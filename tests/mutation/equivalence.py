"""Whether a fault can be seen at a block's ports at all: from a proof, or a search of some cycles.

The netlist in which an input chooses the fault becomes a graph of and gates and registers. A memory
is registers, too, and all have one clock: faults of clocks are not to be seen in it. Both copies,
the good one and the mutant, are that one graph with the choice as a constant, so whatever they
share is built once. They begin as hardware does: in any state, which is the same in both, and with
one cycle of reset; so what a memory holds is unknown but the same.

The proof is an induction. What holds from one cycle to the next is found by starting with
everything that might (each register is the same in both copies; it is, or a bit of the good one has
some value; no two bits of the good one have these values) and dropping what a solver refutes, until
nothing more goes. When the outputs' equality is still there, the mutant is equivalent.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import z3

from tokenloom.sim.yosys import yosys

__all__ = ["Machine", "Verdict", "compare", "machine"]

_RESET = "rst"
# Cycles of the search, of its part before the strong proof; CPU seconds for a mutant.
FRAMES, SECONDS = 30, 60.0
_FIRST = 6
_WIDTH, _CYCLES = 128, 100  # runs at once and cycles of the simulation that thins the candidates
# Bits of state up to which all pairs of them are candidates; how near they have to be with more.
_PAIRS, _NEAR = 60, 10


@dataclass(frozen=True)
class Verdict:
    """What is known of a mutant.

    Attributes
    ----------
    proved : bool
        Equivalent.
    differs : int or None
        Cycles after reset in which an output differs for the first time.
    cycles : int
        For which the search found no difference.
    """

    proved: bool
    differs: int | None
    cycles: int

    @property
    def kind(self) -> str:
        """The list of `Mutants` that it belongs to."""
        if self.proved:
            return "equivalent"
        return "alike" if self.differs is None else "survived"

    def __str__(self) -> str:
        if self.proved:
            return "proved"
        if self.differs is None:
            return f"no difference in {self.cycles} cycles"
        return f"differs in cycle {self.differs}"


@dataclass
class Machine:
    """And gates and registers; a literal is twice a number, plus one when it is inverted."""

    inputs: list[tuple[str, int]]
    states: list[tuple[str, int, int]]  # name, literal, next one
    outputs: list[tuple[str, int]]
    gates: list[tuple[int, int, int]]


def machine(script: str, folder: Path) -> Machine:
    """The flattened design that a script of Yosys leaves."""
    yosys(
        f"""{script}
flatten
opt_clean
memory_map
opt_clean
async2sync
opt -fast
setundef -undriven -zero
dffunmap
techmap
aigmap
opt_clean
write_aiger -ascii -symbols graph.aag
""",
        folder,
    )
    lines = (folder / "graph.aag").read_text().splitlines()
    _, inputs, states, outputs, gates = (int(n) for n in lines[0].split()[1:6])
    assert not any(int(n) for n in lines[0].split()[6:]), "no properties"
    rows = iter(lines[1:])

    def take(count: int) -> list[list[int]]:
        return [[int(n) for n in next(rows).split()] for _ in range(count)]

    ins, regs, outs, ands = (take(count) for count in (inputs, states, outputs, gates))
    names: dict[str, str] = {}
    for row in rows:
        if row.startswith("c"):
            break
        place, name = row.split(" ", 1)
        names[place] = name
    return Machine(
        inputs=[(names[f"i{i}"], row[0]) for i, row in enumerate(ins)],
        states=[(names.get(f"l{i}", f"l{i}"), row[0], row[1]) for i, row in enumerate(regs)],
        outputs=[(names[f"o{i}"], row[0]) for i, row in enumerate(outs)],
        gates=[(row[0], row[1], row[2]) for row in ands],
    )


class _Graph:
    """And gates without doubles. Literal 0 is false, 1 is true."""

    def __init__(self) -> None:
        self.gates: list[tuple[int, int] | None] = [None]
        self._known: dict[tuple[int, int], int] = {}
        self.solver = z3.SolverFor("QF_FD")
        self._terms: dict[int, z3.BoolRef] = {0: z3.BoolVal(False)}

    def free(self) -> int:
        self.gates.append(None)
        return 2 * len(self.gates) - 2

    def both(self, a: int, b: int) -> int:
        if a > b:
            a, b = b, a
        if a == 0 or a ^ b == 1:
            return 0
        if a == 1 or a == b:
            return b
        found = self._known.get((a, b))
        if found is None:
            self.gates.append((a, b))
            found = self._known[a, b] = 2 * len(self.gates) - 2
        return found

    def either(self, *literals: int) -> int:
        result = 0
        for literal in literals:
            result = self.both(result ^ 1, literal ^ 1) ^ 1
        return result

    def differ(self, a: int, b: int) -> int:
        if a ^ b == 1:
            return 1
        return self.both(self.both(a, b) ^ 1, self.both(a ^ 1, b ^ 1) ^ 1)

    def term(self, literal: int) -> z3.BoolRef:
        """The solver's name of a literal; what it depends on is told to the solver."""
        todo = [literal >> 1]
        while todo:
            node = todo[-1]
            if node in self._terms:
                todo.pop()
                continue
            gate = self.gates[node]
            if gate is None:
                self._terms[node] = z3.Bool(f"n{node}")
                continue
            missing = [child >> 1 for child in gate if child >> 1 not in self._terms]
            if missing:
                todo += missing
                continue
            name = z3.Bool(f"n{node}")
            a, b = (self._signed(child) for child in gate)
            self.solver.add(
                z3.Or(z3.Not(name), a),
                z3.Or(z3.Not(name), b),
                z3.Or(name, z3.Not(a), z3.Not(b)),
            )
            self._terms[node] = name
        return self._signed(literal)

    def _signed(self, literal: int) -> z3.BoolRef:
        term = self._terms[literal >> 1]
        return z3.Not(term) if literal & 1 else term

    def values(self, model: z3.ModelRef) -> list[bool]:
        """Of all literals, in a model."""
        result: list[bool] = []
        for node, gate in enumerate(self.gates):
            if gate is None:
                known = self._terms.get(node) if node else None
                value = known is not None and z3.is_true(model[known])
            else:
                value = result[gate[0]] and result[gate[1]]
            result += [value, not value]
        return result


def _step(
    graph: _Graph, design: Machine, state: Sequence[int], inputs: dict[str, int]
) -> tuple[list[int], list[int]]:
    """The next state and the outputs."""
    found: dict[int, int] = {0: 0}
    for (_, place, _), literal in zip(design.states, state, strict=True):
        found[place >> 1] = literal ^ (place & 1)
    for name, place in design.inputs:
        found[place >> 1] = inputs[name]
    both = graph.both
    for place, a, b in design.gates:
        found[place >> 1] = both(found[a >> 1] ^ (a & 1), found[b >> 1] ^ (b & 1))

    def of(literal: int) -> int:
        return found[literal >> 1] ^ (literal & 1)

    return [of(after) for *_, after in design.states], [of(lit) for _, lit in design.outputs]


class _Pair:
    """Good copy and mutant side by side."""

    def __init__(self, design: Machine, choice: str, number: int) -> None:
        self.design, self.graph = design, _Graph()
        self._choices = []
        bits = [name for name, _ in design.inputs if name.split("[")[0] == choice]
        for value in (0, number):
            self._choices.append(
                {
                    name: value >> int(name.split("[")[1][:-1] if "[" in name else 0) & 1
                    for name in bits
                }
            )

    def state(self) -> list[list[int]]:
        """Any state, of both."""
        some = [self.graph.free() for _ in self.design.states]
        return [some, some]

    def step(
        self, states: list[list[int]], reset: int | None = None
    ) -> tuple[list[list[int]], int]:
        """The next states, and whether the outputs differ."""
        shared = {
            name: self.graph.free() for name, _ in self.design.inputs
            if name not in self._choices[0]
        }  # fmt: skip
        if reset is not None:
            shared[_RESET] = reset
        (good, shown), (bad, seen) = (
            _step(self.graph, self.design, state, shared | choice)
            for state, choice in zip(states, self._choices, strict=True)
        )
        differ = self.graph.either(
            *(self.graph.differ(a, b) for a, b in zip(shown, seen, strict=True))
        )
        return [good, bad], differ

    def begin(self) -> list[list[int]]:
        """Any state after a cycle of reset."""
        return self.step(self.state(), reset=1)[0]


def _ask(graph: _Graph, literals: Iterable[int], until: float) -> z3.CheckSatResult:
    terms = [graph.term(literal) for literal in literals]
    left = until - time.process_time()
    if left <= 0:
        return z3.unknown
    # The solver's clock is the wall's, which may be slow.
    graph.solver.set("timeout", max(1, int(4000 * left)))
    return graph.solver.check(*terms)


def _search(pair: _Pair, frames: int, until: float) -> tuple[int | None, int]:
    """The first cycle that shows a difference, if one does; cycles searched."""
    states = pair.begin()
    for frame in range(frames):
        states, differ = pair.step(states)
        answer = _ask(pair.graph, [differ], until) if differ else z3.unsat
        if answer == z3.sat:
            return frame, frame
        if answer == z3.unknown:
            return None, frame
        pair.graph.solver.add(z3.Not(pair.graph.term(differ)))
    return None, frames


# A candidate: bit i of one copy's state is what the other's is, unless the good copy's bit j has
# the value v; or not both, in the good copy, bit j = v and bit k = w.
_Same = tuple[int, int, bool]
_Never = tuple[int, bool, int, bool]


def _candidates(pair: _Pair, memory: set[int]) -> tuple[list[_Same], list[_Never]]:
    control = [i for i in range(len(pair.design.states)) if i not in memory]
    # A register's bits are neighbours.
    near = len(control) if len(control) <= _PAIRS else _NEAR
    pairs = [(j, k) for at, j in enumerate(control) for k in control[at + 1 : at + 1 + near]]
    both = (False, True)
    same = [(i, j, v) for one in pairs for i, j in (one, one[::-1]) for v in both]
    never = [(j, v, k, w) for j, k in pairs for v in both for w in both]
    never += [(j, v, j, v) for j in control for v in both]
    return same, never


def _simulated(design: Machine, choice: str, rng: random.Random) -> list[list[int]]:
    """States that the good copy comes through, a bit for each run."""
    full = (1 << _WIDTH) - 1
    state = [rng.getrandbits(_WIDTH) for _ in design.states]
    seen = []
    for cycle in range(_CYCLES):
        found = {0: 0}
        for (_, place, _), value in zip(design.states, state, strict=True):
            found[place >> 1] = value
        for name, place in design.inputs:
            value = rng.getrandbits(_WIDTH)
            if name.split("[")[0] == choice:
                value = 0
            elif name == _RESET:
                value = 0 if cycle else full
            found[place >> 1] = value
        for place, a, b in design.gates:
            left = found[a >> 1] ^ (full if a & 1 else 0)
            right = found[b >> 1] ^ (full if b & 1 else 0)
            found[place >> 1] = left & right
        state = [found[n >> 1] ^ (full if n & 1 else 0) for *_, n in design.states]
        seen.append(state)
    return seen


def _proved(
    design: Machine, choice: str, number: int, memory: set[int], *, strong: bool, until: float
) -> bool:
    """Whether an induction shows that the outputs never differ.

    With `strong` from all candidates, otherwise only from registers that are the same.
    """
    # Registers that are the same in both copies; the next ones are found with the others gone.
    alike: set[object] = set(range(len(design.states)))
    same: list[_Same] = []
    never: list[_Never] = []
    if strong:
        same, never = _candidates(_Pair(design, choice, number), memory)
        runs = _simulated(design, choice, random.Random(1))
        full = (1 << _WIDTH) - 1

        def happens(j: int, v: bool, k: int, w: bool) -> bool:
            return any((s[j] ^ (0 if v else full)) & (s[k] ^ (0 if w else full)) for s in runs)

        never = [rule for rule in never if not happens(*rule)]

    def rules(graph: _Graph, states: list[list[int]]) -> dict[object, int]:
        """For each candidate the literal that says it holds."""
        good, bad = states
        unequal = [graph.differ(a, b) for a, b in zip(good, bad, strict=True)]
        found: dict[object, int] = {i: unequal[i] ^ 1 for i in alike}
        for i, j, v in same:
            if i not in alike:
                excused = good[j] ^ (not v)
                found[i, j, v] = graph.both(unequal[i], excused ^ 1) ^ 1
        for j, v, k, w in never:
            found[j, v, k, w] = graph.both(good[j] ^ (not v), good[k] ^ (not w)) ^ 1
        return found

    reset = True
    while True:
        pair = _Pair(design, choice, number)
        graph = pair.graph
        before: dict[object, int] = {}
        differ = 0
        if reset:
            states = pair.begin()
        else:
            good = [graph.free() for _ in design.states]
            bad = [lit if i in alike else graph.free() for i, lit in enumerate(good)]
            before = rules(graph, [good, bad])
            states, differ = pair.step([good, bad])
        after = rules(graph, states)
        lost: set[object] = set()
        while not lost:
            assumed = [before[rule] for rule in after] if before else []
            broken = graph.either(*(literal ^ 1 for literal in after.values()))
            answer = _ask(graph, [broken, *assumed], until) if broken else z3.unsat
            if answer == z3.unknown:
                return False
            if answer == z3.unsat:
                break
            values = graph.values(graph.solver.model())
            gone = {rule for rule, literal in after.items() if not values[literal]}
            after = {rule: literal for rule, literal in after.items() if rule not in gone}
            same = [rule for rule in same if rule not in gone]
            never = [rule for rule in never if rule not in gone]
            # Without a register that both share the graph is another one.
            lost = gone & alike
            alike -= lost
        if not lost and not reset:
            return differ == 0 or _ask(graph, [differ, *assumed], until) == z3.unsat
        reset = reset and bool(lost)


def compare(
    design: Machine,
    choice: str,
    number: int,
    *,
    frames: int = FRAMES,
    seconds: float = SECONDS,
) -> Verdict:
    """Look for a difference between mutant `number` and the block, then for a proof of none.

    Parameters
    ----------
    design : Machine
        With the inputs `choice`, whose value chooses the fault.
    """
    now = time.process_time()
    memory = {i for i, (name, *_) in enumerate(design.states) if re.search(r"\]\[\d+\]$", name)}

    def proved(strong: bool, share: float) -> bool:
        until = now + seconds * share
        return _proved(design, choice, number, memory, strong=strong, until=until)

    if proved(False, 0.25):
        return Verdict(proved=True, differs=None, cycles=0)
    differs, cycles = _search(_Pair(design, choice, number), _FIRST, now + seconds * 0.5)
    if differs is not None:
        return Verdict(proved=False, differs=differs, cycles=cycles)
    if proved(True, 0.75):
        return Verdict(proved=True, differs=None, cycles=cycles)
    differs, more = _search(_Pair(design, choice, number), frames, now + seconds)
    return Verdict(proved=False, differs=differs, cycles=max(cycles, more))
