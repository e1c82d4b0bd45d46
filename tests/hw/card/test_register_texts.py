"""Documentation and C header say what the table says."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tokenloom.hw.card.register_map import REGISTERS
from tokenloom.hw.card.register_texts import c_header, markdown

DOCS = Path(__file__).resolve().parents[3] / "docs" / "registers.md"


def test_documentation_is_up_to_date():
    assert DOCS.read_text() == markdown(), "run python -m tokenloom.hw.card.register_texts"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_header_in_c(tmp_path):
    """A C program prints every macro; twice included, as strict C."""
    (tmp_path / "tokenloom_registers.h").write_text(c_header())
    names, want = [], []
    for register in REGISTERS:
        names.append(f"TL_{register.name}")
        want.append(register.offset)
        for field in register.fields:
            label = f"TL_{register.name}_{field.name.upper()}"
            names += [f"{label}_LOW", f"{label}_MASK"]
            want += [field.low, register.pack(**{field.name: (1 << field.bits) - 1})]
    prints = "\n".join(f'printf("%u\\n", {name});' for name in names)
    source = tmp_path / "main.c"
    include = '#include "tokenloom_registers.h"\n'
    source.write_text(f"{include}{include}#include <stdio.h>\nint main(void) {{\n{prints}\n}}\n")
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", str(source), "-o"]
    subprocess.run([*command, str(tmp_path / "main")], check=True)
    done = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True)
    assert list(map(int, done.stdout.split())) == want
