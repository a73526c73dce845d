"""What judges said, as rows of text for the page. What they wrote is untrusted: the page escapes it.

Position is told of the comparisons that were asked: those that need no judge are ties in both orders, and would hide a
judge that goes by position alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from arms.job.files import UserError, read_json
from display.frames import read_frame
from display.words import interval, number
from study.runs import Run
from study.vocabulary import ALL_CONTRASTS

KEYS = ["contrast", "seed", "prompt_id", "sample_idx"]
BIASED = 0.1  # a net win rate of the answer shown first that is worth a warning, if it is no chance
FEW = 5  # prompts, below which nothing is said of a bias


def read_judges(judges: Iterable[str], judgements: Iterable[str]) -> dict[str, dict]:
    """Judge -> its card (rule meet_judge), with `said`: a frame of all that it judged.

    judges: judge/<judge>.json. judgements: judge/<judge>/<run>-vs-<run>.parquet.
    """
    import pandas

    found = {Path(path).stem: read_json(path) for path in judges}
    said: dict[str, list] = {name: [] for name in found}
    for path in map(Path, judgements):
        first, _, second = path.stem.partition("-vs-")
        run, other = Run.parse(first), Run.parse(second)
        seed = next(one.seed for one in (run, other) if one.seed is not None)
        frame = read_frame(path).assign(contrast=contrast_of(run.arm, other.arm), seed=seed)
        said[path.parent.name].append(frame.assign(shown=(frame["first"] == first).map({True: "run", False: "other"})))
    for name in found:
        if not said[name]:
            raise UserError(f"--judgements: nothing of judge {name!r}")
        found[name]["said"] = pandas.concat(said[name], ignore_index=True)
    return dict(sorted(found.items()))


def contrast_of(arm: str, other: str) -> str:
    """The contrast of one arm minus another."""
    return next(name for name, (weights, *_) in ALL_CONTRASTS.items() if weights == {arm: 1, other: -1})


def judge_rows(found: dict[str, dict], preferences, alpha: float) -> list[dict]:
    """Each judge with a row for each contrast, and what to be warned of. preferences: the table of the statistics."""
    rows = []
    for name, judge in found.items():
        own = preferences[preferences["metric"] == f"judge.{name}"]
        said = judge["said"]
        rows.append(
            {
                "name": name,
                "model": judge["model"],
                "served": judge["served"],
                "how": how(judge),
                "rows": [contrast_row(row, said[said["contrast"] == row.contrast], alpha) for row in own.itertuples()],
                "warnings": [*position_warnings(name, said, alpha), *other_warnings(judge)],
            }
        )
    return rows


def how(judge: dict) -> str:
    """With what a judge was asked; a reward model is not."""
    given = [f"{key.replace('_', ' ')} {value}" for key, value in judge["parameters"].items()]
    if judge["prompt_sha256"] is None:
        return f"A reward model ({', '.join(given)}), which scores each answer by itself, so position plays no part."
    return f"Prompt {', '.join([judge['prompt_sha256'][:12], *given])}."


def contrast_row(row, said, alpha: float) -> dict:
    """One contrast of one judge. row: of preferences.parquet. said: its judgements."""
    counts, place = said["status"].value_counts(), position(said, alpha)
    return {
        **{key: getattr(row, key) for key in ("contrast", "wins", "ties", "losses")},
        **{status: int(counts.get(status, 0)) for status in ("judge_fail", "error")},
        "unasked": int(said["unasked"].notna().sum()),
        "agree": f"{place.agree:.0%}" if place else "—",
        "first": with_interval(place.bias, place.low, place.high) if place else "—",
        "equal_length": with_interval(row.equal_length, row.equal_length_lo, row.equal_length_hi),
    }


def missing(value: float | None) -> bool:
    """Whether a number of a table is none."""
    return value is None or math.isnan(value)


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A net win rate in points, with its interval if it has one."""
    if value is None or math.isnan(value):
        return "—"
    ends = "" if low is None or high is None or math.isnan(low) else f" ({interval(low, high, 100)})"
    return number(value, 100) + ends


@dataclass(frozen=True)
class Position:
    """What the place of an answer does to its chances, over comparisons that were asked in both orders.

    bias: net win rate of the answer shown first, over prompts; low, high: its interval, None where nothing varies.
    agree: share of comparisons with one outcome in both orders.
    """

    prompts: int
    bias: float
    low: float | None
    high: float | None
    agree: float


def position(said, alpha: float) -> Position | None:
    """The bias of position of some judgements; None if none was asked in both orders."""
    import numpy

    from paired.intervals import cluster_mean, interval

    asked = said[said["unasked"].isna() & (said["status"] == "ok")]
    both = asked.groupby(KEYS)["value"].agg(["size", "sum", "mean"])  # of the answer shown first
    both = both[both["size"] == 2]
    if not len(both):
        return None
    net = 2 * both["mean"].groupby("prompt_id").mean().to_numpy() - 1
    found = cluster_mean(net, numpy.arange(len(net)), len(net)) if len(net) > 1 else None
    low, high = interval(found.mean, found.components, alpha) if found and found.se_cr2 > 0 else (None, None)
    return Position(len(net), float(net.mean()), low, high, float((both["sum"] == 1).mean()))


def position_warnings(name: str, said, alpha: float) -> Iterable[str]:
    """Named where a judge prefers a place: by more than BIASED, and by more than chance."""
    place = position(said, alpha)
    if place is None or abs(place.bias) < BIASED or place.prompts < FEW:
        return
    if place.low is None or place.high is None or not place.low <= 0 <= place.high:
        yield (
            f"{name} is biased by position: the answer shown {'first' if place.bias > 0 else 'second'} wins "
            f"{number(abs(place.bias), 100, signed=False)} points net, and the two orders agree in {place.agree:.0%} "
            "of the comparisons that were asked."
        )


def other_warnings(judge: dict) -> Iterable[str]:
    """Answers without a verdict, refused questions, a provider that changed something."""
    said = judge["said"]
    asked = said[said["unasked"].isna()]
    for status, words in (("judge_fail", "gave no verdict"), ("error", "were not taken by the endpoint")):
        lost = asked[asked["status"] == status]
        if len(lost):
            cut = int((lost["finish_reason"] == "length").sum())
            ended = f", {cut} of them since the judge's answer was cut by max_tokens" if cut else ""
            yield f"{len(lost)} of {len(asked)} questions {words}{ended}; their prompts count for neither arm."
    prints = sorted(asked["fingerprint"].dropna().unique())
    if len(prints) > 1:
        yield f"The endpoint's system_fingerprint changed while it judged ({', '.join(prints)})."


def agreement(found: dict[str, dict]) -> list[dict]:
    """A row for every two judges: how often they agree on comparisons that both judged, their orders averaged."""
    outcomes = {name: outcome(judge["said"]) for name, judge in found.items()}
    rows = []
    for one, other in itertools.combinations(outcomes, 2):
        both = outcomes[one].to_frame("one").join(outcomes[other].rename("other"), how="inner").dropna()
        decided = both[(both["one"] != 0) & (both["other"] != 0)]
        same, alike = (both["one"] == both["other"]).mean(), (decided["one"] == decided["other"]).mean()
        rows.append(
            {
                "judges": [one, other],
                "n": len(both),
                "agree": "—" if missing(same) else f"{same:.0%}",
                "decided": len(decided),
                "same": "—" if missing(alike) else f"{alike:.0%}",
            }
        )
    return rows


def outcome(said):
    """Of each comparison: 1 if the first arm won over both orders, -1 if the other did, 0 for neither; none failed."""
    import numpy

    signs = said["value"] * 2 - 1
    own = signs.where(said["shown"] == "run", -signs)
    return numpy.sign(own.groupby([said[key] for key in KEYS]).agg(lambda both: both.mean(skipna=False)))
