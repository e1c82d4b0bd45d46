"""What goes wrong on a card: resets in mid-flight, power-ups, memory that fails for good."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tokenloom.host import progress
from tokenloom.host.bench.registry import Figure, group
from tokenloom.host.bench.runs import STORY, new_chip, prepared, same_passes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenloom.compiler.quantise import QuantModel
    from tokenloom.host.driver import Driver
    from tokenloom.host.prepare import Prepared
    from tokenloom.sim.card import CardTransport
    from tokenloom.sim.chip_device import ChipDevice, PassRecord

_row = group("Faults")

_RESETS = 200  # half of them of the chip, half of the card
_POWER_UPS = 20
_PLACES = 200
_NEW = 3
_LONG = 20  # new tokens of a request that is not played to its end
_PROMPT = 5

Ready = tuple["Prepared", "QuantModel"]


def _ready(overrides: tuple[str, ...] = ()) -> tuple[Ready, list[int], list[PassRecord]]:
    """The project's own model; a short prompt, and its passes on the ideal memory."""
    ready = prepared("tiny", "mini", overrides)
    prompt = ready[0].text.encode(STORY)[:_PROMPT]
    chip = new_chip(ready)
    want = list(chip.generate(prompt, _NEW))
    chip.close()
    return ready, prompt, want


def _tokens(records: Sequence[PassRecord]) -> list[int]:
    return [record.token for record in records if record.token is not None]


class _Card:
    """A simulated card with HBM2 and a model, driven through its registers."""

    def __init__(self, ready: Ready, seed: int = 1, power_up: int | None = None) -> None:
        from tokenloom.compiler.image import lay_out
        from tokenloom.compiler.program import compile_program
        from tokenloom.host.driver import Driver
        from tokenloom.sim.card import CardTransport

        hardware, self._model = ready[0].hardware, ready[1]
        self._hardware = hardware
        image = lay_out(self._model, hardware)
        self._program = compile_program(self._model, image, hardware)
        self.transport: CardTransport = CardTransport(
            hardware, image.words, "hbm2", seed, power_up=power_up
        )
        self.driver: Driver = Driver(self.transport, hardware)
        self.driver.reset()
        for channel, data in enumerate(image.channels):
            self.transport.load(channel, data)
        self.configure()

    def configure(self) -> None:
        """The reset sequence, and the program again."""
        self.driver.configure(self._program, self._hardware, self._model.shape.vocab)

    def begin(self, prompt: Sequence[int], new: int) -> None:
        """Send a request to which nobody listens."""
        write = self.driver.write
        write("REQ_TOKENS", count=len(prompt))
        write("REQ_NEW", count=new)
        write("REQ_SLOT", slot=1)
        write("REQ_EOS_USED", mask=0)
        write("START", go=1)
        for token in prompt:
            write("PROMPT", value=token)

    def answer(self, prompt: Sequence[int]) -> list[int]:
        """Tokens of a request; empty if it failed."""
        from tokenloom.compiler.errors import TokenloomError

        try:
            return list(self.driver.generate(prompt, _NEW))
        except TokenloomError:
            return []


def _right(chip: ChipDevice, prompt: Sequence[int], want: list[PassRecord]) -> bool:
    """A request gives the ideal memory's tokens, logits and belt cycles."""
    from tokenloom.compiler.errors import TokenloomError

    try:
        return same_passes(list(chip.generate(prompt, _NEW)), want)
    except TokenloomError:
        return False


def _moment(rng: random.Random, most: int) -> int:
    """Clock cycles after which something happens: one time in four before the first pass ends."""
    return rng.randrange(most if rng.random() < 0.75 else most // 8)


@_row("hostile_resets", "resets", f"{_RESETS}, 0 wrong", how="simulated")
def hostile_resets() -> Figure:
    """Resets in mid-flight, after each of which the next request is the ideal memory's."""
    ready, prompt, want = _ready()
    rng = random.Random(1)
    span = 3 * sum(record.elapsed for record in want)
    right = chip_busy = card_busy = 0
    half = _RESETS // 2
    with progress.counter("resets", _RESETS) as update:
        chip = new_chip(ready, "hbm2", 1)
        for number in range(half):
            chip.begin(prompt, _LONG, _moment(rng, span), slot=1)
            chip_busy += chip.pending() > 0
            chip.reset()
            right += _right(chip, prompt, want)
            update(number + 1)
        chip.close()
        card = _Card(ready)
        for number in range(half):
            card.begin(prompt, _LONG)
            card.transport.wait(_moment(rng, span))
            card_busy += card.transport.pending() > 0
            card.configure()
            right += card.answer(prompt) == _tokens(want)
            update(half + number + 1)
        card.transport.close()
    detail = (
        f"tiny on 'mini', memory hbm2, moments drawn with seed 1 in the first {span:,} cycles of a "
        f"request: {half} of the chip together with its memory, bursts under way in {chip_busy}, "
        f"then every token, logit and belt cycle of the next request; {half} of the card through "
        f"its registers, the memory going on, bursts under way in {card_busy}, then every token; "
        f"{_RESETS - right} of the next requests differ from the ideal memory's or do not end"
    )
    return Figure(value=_RESETS, detail=detail, ok=right == _RESETS)


@_row("hostile_powerups", "power-ups right", f"{2 * _POWER_UPS} of {2 * _POWER_UPS}",
      how="simulated")  # fmt: skip
def hostile_powerups() -> Figure:
    """Noise in all registers and memories but tables; then a reset, and a request."""
    from tokenloom.sim.chip_device import ChipDevice
    from tokenloom.sim.simulator import build

    ready, prompt, want = _ready()
    hardware, right = ready[0].hardware, 0
    with progress.steps() as step:
        for card in (False, True):
            build(hardware, step, power_up=True, card=card)
    with progress.counter("power-ups", 2 * _POWER_UPS) as update:
        for seed in range(1, _POWER_UPS + 1):
            chip = ChipDevice(ready[1], hardware, memory="hbm2", memory_seed=seed, power_up=seed)
            right += _right(chip, prompt, want)
            chip.close()
            update(seed)
        for seed in range(1, _POWER_UPS + 1):
            one = _Card(ready, seed, power_up=seed)
            right += one.answer(prompt) == _tokens(want)
            one.transport.close()
            update(_POWER_UPS + seed)
    detail = (
        f"tiny on 'mini', memory hbm2, every register and memory that is no table begins with "
        f"noise, seeds 1 to {_POWER_UPS}; after a reset of 4 cycles {_POWER_UPS} chips give the "
        f"ideal memory's tokens, logits and belt cycles, {_POWER_UPS} cards its tokens"
    )
    return Figure(value=right, detail=detail, ok=right == 2 * _POWER_UPS)


@_row("hostile_unrecovered", "faults reported", "every one, 0 wrong", how="simulated")
def hostile_unrecovered() -> Figure:
    """Bursts that fail for ever: reported with their place, and after a repair all is well."""
    from tokenloom.compiler.errors import TokenloomError
    from tokenloom.hw.memory.axi import BURST_BYTES
    from tokenloom.sim.chip_device import MemoryFault

    ready, prompt, want = _ready(("array.columns=4",))
    rng = random.Random(1)
    chip = new_chip(ready, "hbm2", 1)
    word = ready[0].hardware.memory.port_bits // 8
    kv = chip.program.registers["kv_base"] * word
    span = sum(record.elapsed for record in want)
    reported = writes = unharmed = wrong = misplaced = after = early = 0
    with progress.counter("places", _PLACES) as update:
        for number in range(_PLACES):
            # Weights and embedding rows, or the page of K and V; one channel, or two at once.
            channels = rng.sample(range(4), rng.choice((1, 1, 1, 2)))
            end = chip.image.words * word
            places = {
                channel: rng.randrange(kv) if rng.random() < 0.7 else rng.randrange(
                    kv, min(end, kv + chip.program.registers["page_stride"] * word)
                )
                for channel in channels
            }  # fmt: skip
            before = sum(c.read_errors + c.write_errors for c in chip.memory_counters())
            moment = rng.choice((None, rng.randrange(span)))
            records: list[PassRecord] = []
            try:
                if moment is None:
                    for channel, address in places.items():
                        chip.fail_at(channel, address)
                for record in chip.generate(prompt, _NEW):
                    records.append(record)
                    if moment is not None and sum(r.elapsed for r in records) > moment:
                        for channel, address in places.items():
                            chip.fail_at(channel, address)
                        moment = None
                right = same_passes(records, want)
                unharmed += right
                wrong += not right
                errors = sum(c.read_errors + c.write_errors for c in chip.memory_counters())
                early += right and errors > before
            except MemoryFault as fault:
                reported += 1
                writes += fault.write
                place = places.get(fault.channel, -1)
                misplaced += not fault.address <= place < fault.address + BURST_BYTES
                wrong += not same_passes(records, want[: len(records)])
            except TokenloomError:
                wrong += 1
            for channel in channels:
                chip.fail_at(channel, 0, 0)
            after += not _right(chip, prompt, want)
            update(number + 1)
    chip.close()
    detail = (
        f"tiny on 'mini' with 4 columns, memory hbm2, {_PLACES} times one or two channels fail for "
        f"good at an address drawn with seed 1, from the start or in the midst of a request: "
        f"{reported} requests end with a report ({writes} of a write), {misplaced} of them of "
        f"another place; {unharmed} need nothing from there any more, {early} of which the chip "
        f"had read ahead; {wrong} give a wrong token or logit or hang; after a repair {after} of "
        f"the next requests differ from the ideal memory's"
    )
    return Figure(value=reported, detail=detail, ok=not wrong + misplaced + after and reported > 0)


@_row("hostile_counters", "counters equal", "33 of 33", how="simulated")
def hostile_counters() -> Figure:
    """The card's own counters against the harness's count, on hostile memory."""
    ready, prompt, want = _ready()
    names = {"passes": None, "tokens": None, "saturations": "saturated"} | {
        name: name for name in ("elapsed", "scheduled", "beats", *(f"stall_{c}" for c in _CAUSES))
    }
    equal = total = 0
    share = []
    for seed in range(1, 4):
        card = _Card(ready, seed)
        got = [card.answer(prompt) for _ in range(3)]
        counted, passes = card.driver.counters(), card.transport.passes()
        mine = {name: int(passes[field].sum()) for name, field in names.items() if field}
        mine |= {"passes": len(passes), "tokens": sum(map(len, got))}
        total += len(names) + 1
        equal += sum(counted[name] == mine[name] for name in names)
        stalled = sum(counted[f"stall_{cause}"] for cause in _CAUSES)
        equal += counted["elapsed"] == counted["scheduled"] + stalled
        share.append(100 * stalled / counted["elapsed"])
        card.transport.close()
    detail = (
        f"tiny on 'mini', the card on memory hbm2 with seeds 1 to 3, three requests each: "
        f"{', '.join(names)}, and elapsed = scheduled + stalled, read from the registers and "
        f"counted by the harness in the same run; {min(share):.1f} to {max(share):.1f} % of the "
        "cycles stalled"
    )
    return Figure(value=equal, detail=detail, ok=equal == total)


_CAUSES = ("tape", "row", "kv", "other")
