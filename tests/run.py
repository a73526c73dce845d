"""Run pytest in the environment of this interpreter: .envs/train/bin/python tests/run.py tests/unit/train [options].

pytest lives in .envs/pytest and is added at the end of the module path: the rule's own packages win, and programs that
a test starts see exactly the environment that they have in the workflow.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / ".envs" / "pytest" / "lib" / "python3.11" / "site-packages"))

if __name__ == "__main__":
    import pytest

    sys.exit(pytest.main(sys.argv[1:]))
