"""`lm_eval` with its own `--model hf`, as a user would run it by itself, on the pinned torch and transformers.

    .envs/train/bin/python tests/harness_alone.py run --model hf --model_args pretrained=WEIGHTS --tasks T.yaml ...

The harness is that of the `grade` environment, whose packages are added at the end of the module path.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / ".envs" / "grade" / "lib" / "python3.11" / "site-packages"))

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
