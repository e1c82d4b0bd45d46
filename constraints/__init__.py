"""What holds for every chip, as files; `host/synth/constraints.py` reads them."""
