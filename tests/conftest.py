"""Settings for every test process."""

import os

# The test processes share the machine's cores; NumPy's own threads would only get in their way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
