"""The kernel in the simulated memory: the card's requests through the kernel's window and ports."""

import numpy as np
import pytest

from tests.models_for_tests import random_model
from tokenloom.compiler.errors import TokenloomError
from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import quantise
from tokenloom.host.driver import BusError, Driver
from tokenloom.hw.card.kernel_map import BASES, CARD_OFFSET, kernel_registers
from tokenloom.hw.card.register_map import by_name
from tokenloom.hw.config import load
from tokenloom.sim.golden import Golden
from tokenloom.sim.kernel import KernelTransport
from tokenloom.sim.kernel_adapter import simulated_base

HARDWARE = load("mini")
SHAPE = dict(width=40, ffn=50, heads=6, kv_heads=3, head_size=10, vocab=33, layers=2, tied=False)
MAP = by_name(kernel_registers(HARDWARE.array.columns))


class Kernel:
    def __init__(self, memory):
        self.model = quantise(random_model(**SHAPE))
        self.image = lay_out(self.model, HARDWARE)
        self.program = compile_program(self.model, self.image, HARDWARE)
        self.transport = KernelTransport(HARDWARE, self.image.words, memory)
        self.driver = Driver(self.transport, HARDWARE, 20.0)

    def load(self):
        self.driver.reset()
        for channel, data in enumerate(self.image.channels):
            self.transport.load(channel, data)
        self.driver.configure(self.program, HARDWARE, self.model.shape.vocab)

    def control(self, name="AP_CTRL"):
        return MAP[name].unpack(self.transport.read_kernel(MAP[name].offset))

    def set(self, name, **fields):
        self.transport.write_kernel(MAP[name].offset, MAP[name].pack(**fields))

    def prompt(self, count, seed):
        rng = np.random.default_rng(seed)
        return rng.integers(0, self.model.shape.vocab, count).tolist()


@pytest.fixture
def kernel():
    made = []

    def make(memory="hbm2"):
        made.append(Kernel(memory))
        return made[-1]

    yield make
    for one in made:
        one.transport.close()


@pytest.mark.parametrize("memory", ["hbm2", "ddr4"])
def test_tokens_are_the_golden_models(memory, kernel):
    one = kernel(memory)
    one.load()
    for seed in range(3):
        prompt = one.prompt(5, seed)
        want = Golden(one.model).greedy(prompt, 6)
        assert list(one.driver.generate(prompt, 6, slot=seed)) == want


def test_the_runtimes_handshake(kernel):
    """A request begun by AP_CTRL.start, as the vendor's runtime begins a kernel's run."""
    one = kernel()
    idle = {"start": 0, "done": 0, "idle": 1, "ready": 0}
    assert one.control() == idle
    one.set("AP_CTRL", start=1)  # not configured: refused, and the run has ended
    assert one.control() == {**idle, "done": 1, "ready": 1}
    assert one.control() == idle
    assert one.driver.read("STATUS")["refused"] == 1
    one.load()
    one.set("GIE", enable=1)
    one.set("IER", done=1, ready=0, token=1)
    prompt = one.prompt(4, 9)
    want = Golden(one.model).greedy(prompt, 5)
    for _ in range(2):
        one.driver.write("REQ_TOKENS", count=len(prompt))
        one.driver.write("REQ_NEW", count=5)
        one.driver.write("REQ_SLOT", slot=1)
        one.driver.write("REQ_EOS_USED", mask=0)
        one.set("AP_CTRL", start=1)
        assert one.control() == {"start": 1, "done": 0, "idle": 0, "ready": 0}
        for token in prompt:
            one.driver.write("PROMPT", value=token)
        for _ in range(10_000):
            now = one.control()
            if now["done"]:
                break
            assert now["start"] == 1
        assert now["done"] == 1 and now["idle"] == 1
        assert one.control() == idle
        events = one.control("ISR")
        assert events == {"done": 1, "ready": 0, "token": 1}
        one.set("ISR", **events)
        assert not any(one.control("ISR").values())
        got = []
        while (output := one.driver.read("ANSWER"))["valid"]:
            got.append(output["token"])
        assert got == want


def test_bases_are_kept_and_used(kernel):
    one = kernel()
    for channel in range(HARDWARE.array.columns):
        for half in range(2):
            offset = BASES + 8 * channel + 4 * half
            want = simulated_base(channel) >> 32 * half & 0xFFFFFFFF
            assert one.transport.read_kernel(offset) == want
    one.load()
    one.driver.reset()
    one.transport.write_kernel(BASES + 8, (simulated_base(1) - 0x1000) & 0xFFFFFFFF)
    with pytest.raises(TokenloomError, match="outside its memory|address 0x3fffffffff"):
        one.driver.configure(one.program, HARDWARE, one.model.shape.vocab)
        one.transport.wait(5000)


def test_both_halves_of_the_window_answer_errors(kernel):
    transport = kernel().transport
    free = max(register.offset for register in MAP.values()) + 4
    for offset in (free, CARD_OFFSET - 4):
        with pytest.raises(BusError, match="DECERR"):
            transport.read_kernel(offset)
        with pytest.raises(BusError, match="DECERR"):
            transport.write_kernel(offset, 1)
    with pytest.raises(BusError, match="DECERR"):
        transport.read(CARD_OFFSET - 4)
    with pytest.raises(BusError, match="SLVERR"):
        transport.write(0, 1)
