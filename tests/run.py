"""Run pytest in the environment of this interpreter: .envs/train/bin/python tests/run.py tests/unit/train [options].

pytest lives in .envs/pytest and is added at the end of the module path: the rule's own packages win, and programs that
a test starts see exactly the environment that they have in the workflow.
"""

import os
import sys
from pathlib import Path

# Tests run beside each other. OpenMP's threads wait by spinning: with more of them than idle cores a test of a tiny
# model took 127 s, with one thread 3 s (2 cores, load 7).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / ".envs" / "pytest" / "lib" / "python3.11" / "site-packages"))

if __name__ == "__main__":
    import pytest

    sys.exit(pytest.main(sys.argv[1:]))
