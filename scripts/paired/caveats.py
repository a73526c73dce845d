"""What limits a study's claims, as sentences of its banner: seeds left out, failed outputs, unplanned metrics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from .decision import ScoreFacts
from .pairwise import Preference
from .plan import Metric, Plan
from .scores import INFRA_FAILURES, MODEL_FAILURES
from .tables import MissingOutputs
from .variation import SeedSpread
from .words import amount


def left_out(facts: Iterable[ScoreFacts]) -> Iterator[str]:
    """Training seeds that not all arms have, one sentence for all metrics that lost the same."""
    metrics: dict[str, list[str]] = {}
    for own in facts:
        if own.dropped_seeds:
            lost = "; ".join(
                f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))} of {arm}"
                for arm, seeds in sorted(own.dropped_seeds.items())
            )
            kept = ", ".join(map(str, own.seeds))
            metrics.setdefault(f"{lost} left out, since not all models have them; what remains is {kept}", []).append(
                own.metric
            )
    for what, names in metrics.items():
        yield f"--common-seeds, {', '.join(names)}: {what}."


def failed_outputs(missing: Sequence[MissingOutputs], metrics: dict[str, Metric]) -> Iterator[str]:
    """How many outputs of which arm failed, by status, and what they count as (docs/statistics.md, 1.8)."""
    for name, metric in metrics.items():
        own = [row for row in missing if row.metric == name]
        failed, cut, statuses = [], [], set()
        for arm in dict.fromkeys(row.arm for row in own):
            runs = [row for row in own if row.arm == arm]
            n = sum(row.n_outputs for row in runs)
            lost = sum(round(row.rate_missing * row.n_outputs) for row in runs)
            counts = {status: sum(getattr(row, status) for row in runs) for status in MODEL_FAILURES + INFRA_FAILURES}
            graded = sum(counts.values()) - lost  # a truncated output may have a value
            counts["truncated"] -= graded
            found = {status: count for status, count in counts.items() if count}
            statuses |= set(found)
            if found:
                why = ", ".join(f"{count} {status}" for status, count in found.items())
                failed.append(f"{arm} {lost} of {n} ({why})")
            if graded:
                cut.append(f"{arm} {graded} of {n}")
        if failed:
            yield f"Failed outputs of {name}: {', '.join(failed)}.{_counted(metric, statuses)}{_dropped(own)}"
        if cut:
            yield f"Truncated outputs of {name}, scored as they stand: {', '.join(cut)}."


def _counted(metric: Metric, statuses: set[str]) -> str:
    """What the failed outputs with a value by rule count as."""
    if not metric.bounds or not (metric.failed == "worst" or statuses.intersection(MODEL_FAILURES)):
        return ""
    which = "Each, as planned," if metric.failed == "worst" else f"A model's own failure ({', '.join(MODEL_FAILURES)})"
    return f" {which} counts as {metric.bounds[0 if metric.higher_is_better else 1]:g}, the worst value."


def _dropped(rows: Sequence[MissingOutputs]) -> str:
    """How many prompts failed outputs cost."""
    dropped, n = rows[0].n_prompts_dropped, rows[0].n_prompts
    return f" {dropped} of {n} prompts left out for all models." if dropped else ""


def pooling(spreads: Sequence[SeedSpread], plan: Plan, in_pairs: Sequence[ScoreFacts]) -> Iterator[str]:
    """Where trained arms share one seed variance, and where they should but do not vary alike.

    in_pairs: metrics that are judged in pairs, hence have no scores of an arm.
    """
    overall = {row.metric: row for row in spreads if row.group_kind == "overall"}
    of_pairs = [own.metric for own in in_pairs if len(own.seeds) > 1]
    if not plan.pool_seed_variance or not (overall or of_pairs):
        return
    shared, not_alike = [], []
    for metric, row in sorted(overall.items()):
        if row.pooled == "yes":
            shared.append(f"{metric} (p = {row.p_equal:.2g})")
        else:
            p = "" if row.p_equal is None else f" (p = {row.p_equal:.2g})"
            not_alike.append(f"{metric}: {row.pooled.removeprefix('no: ')}{p}")
    not_alike += [f"{metric}: judged in pairs, which have no variance of one arm" for metric in sorted(of_pairs)]
    if not_alike:
        yield (
            f"SEED VARIANCE NOT POOLED, though the plan asks for it: {'; '.join(not_alike)}. Each contrast keeps its "
            "own there, so its interval for the recipe is wider."
        )
    if shared:
        yield (
            f"The trained arms share one seed variance, as planned: {', '.join(shared)} that none varies more; with "
            "few seeds that test sees only large differences."
        )


def judged(preferences: Sequence[Preference], alpha: float) -> Iterator[str]:
    """Wins, ties and losses of each contrast, and what position and length have to do with them."""
    for row in preferences:
        n = row.wins + row.ties + row.losses
        text = f"{row.metric}, {row.contrast}: {row.wins} wins, {row.ties} ties, {row.losses} losses in {n} judgements"
        if row.position_bias is None:
            text += ", each in one order of presentation only, so a bias of position cannot be told from a difference"
        else:
            place = _net(row.position_bias, row.position_lo, row.position_hi, alpha)
            text += (
                f", {row.both_orders:.0%} of comparisons in both orders of presentation, which agreed in "
                f"{row.order_agreement:.0%}; the answer shown first won {place} net"
            )
        if row.equal_length is not None:
            text += f"; at equal length: {_net(row.equal_length, row.equal_length_lo, row.equal_length_hi, alpha)} net"
        yield f"{text}."
    if preferences:
        yield "Intervals of position and length are over prompts, hence about these checkpoints."


def _net(value: float, low: float | None, high: float | None, alpha: float) -> str:
    """A net win rate with its interval, if it has one."""
    if low is None or high is None:
        return amount(value, True)
    ends = f"{amount(low, True).removesuffix(' points')} to {amount(high, True)}"
    return f"{amount(value, True)} ({100 * (1 - alpha):g}% CI {ends})"


def outside(unplanned: Collection[str]) -> Iterator[str]:
    """Metrics that the plan does not name."""
    if unplanned:
        yield (
            f"Not in the plan, hence exploratory, in a family of their own, more taken as better: "
            f"{', '.join(sorted(unplanned))}."
        )
