"""The two stacks of packages that a study may run on."""

from __future__ import annotations

from study.errors import ConfigError

# stack: the environment of everything that trains, scores and answers (envs/<name>.yaml)
STACKS = {"pinned": "train", "current": "train-current"}
QUANTIZES_ON_CPU = ("current",)


def check_precision(config: dict) -> None:
    """ConfigError if a quantised base is asked of a processor whose stack cannot make one."""
    precision = config["model"]["precision"]
    if precision in ("int8", "nf4") and not config["gpus"] and config["stack"] not in QUANTIZES_ON_CPU:
        raise ConfigError(
            f"model.precision {precision} needs gpus: 1, or stack: {' or '.join(QUANTIZES_ON_CPU)}, which quantizes on "
            "a CPU too"
        )
