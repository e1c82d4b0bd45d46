"""Settings for every test process, and what tests of the whole chip share."""

import os

import pytest

# The test processes share the machine's cores; NumPy's own threads would only get in their way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture
def device():
    """Makes simulated devices, of `mini` unless told otherwise, and frees them after the test."""
    from tokenloom.hw.config import load
    from tokenloom.sim.chip_device import ChipDevice

    made = []

    def make(model, memory="ideal", seed=1, hardware=None, **options):
        hardware = hardware or load("mini")
        made.append(ChipDevice(model, hardware, memory=memory, memory_seed=seed, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
