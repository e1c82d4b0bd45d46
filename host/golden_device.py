"""The golden model as a device: the chip's bits and passes, without its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tokenloom.compiler.image import lay_out
from tokenloom.compiler.program import compile_program
from tokenloom.compiler.quantise import QuantModel
from tokenloom.hw.config import HardwareConfig
from tokenloom.sim.chip_device import PassRecord
from tokenloom.sim.golden import Golden
from tokenloom.sim.request import GREEDY, Sampling, check_request, check_sampler

__all__ = ["GoldenDevice"]


class GoldenDevice:
    """Plays the passes that the chip would play, in numpy.

    Parameters
    ----------
    model : QuantModel
    hardware : HardwareConfig
    step : callable
        Told what happens next.
    """

    name = "golden"
    timed = False

    def __init__(
        self,
        model: QuantModel,
        hardware: HardwareConfig,
        step: Callable[[str], None] = lambda title: None,
    ) -> None:
        self.model, self.hardware = model, hardware
        step("lay out the weights")
        self.program = compile_program(model, lay_out(model, hardware), hardware)
        step("load the golden model")
        self._golden = Golden(model)

    def generate(
        self,
        prompt: Sequence[int],
        new: int,
        eos: Sequence[int] = (),
        *,
        sampling: Sampling = GREEDY,
    ) -> Iterator[PassRecord]:
        """As `Device.generate`; cycles, stalls and beats are zero."""
        check_request(self.model, prompt, new)
        check_sampler(sampling, self.hardware.sampler.candidates)
        session = self._golden.session()
        seen: list[int] = []
        left, pending = new, list(prompt)
        while True:
            chunk = pending[: self.hardware.array.rows]
            del pending[: len(chunk)]
            seen += chunk
            sample = not pending
            pos, before = session.length, self._golden.saturations
            logits = session.prefill(chunk, every_logit=sample)
            last = session.length - 1
            token = sampling.choose(self.model, logits[-1], last, seen) if sample else None
            yield PassRecord(
                rows=len(chunk),
                pos=pos,
                sample=sample,
                elapsed=0,
                scheduled=0,
                stalls={},
                beats=0,
                saturated=self._golden.saturations - before,
                logits=logits if sample else None,
                token=token,
            )
            if token is not None:
                left -= 1
                if left == 0 or token in eos:
                    return
                pending = [token]

    def close(self) -> None:
        """Nothing to free."""
