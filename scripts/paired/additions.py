"""Arms that a plan adds to a study: contrasts beside the study's own, analysed apart, so that nothing of those changes.

The study is analysed as if there were no additions, then the additions alone, and their tables are put together. Claims
about additions are a family of their own (Benjamini-Hochberg), and no addition decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .analysis import Analysis, analyse
from .plan import Plan
from .score_files import find_scores

FAMILY = "additions"
OF_THE_STUDY = ("strengths",)  # tables whose numbers hold among the arms of one analysis only


def analyse_all(
    plan: Plan,
    scores: Sequence[str | Path],
    prompts: pd.DataFrame,
    *,
    plan_changes: Sequence[str] | None = None,
    late: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Analysis:
    """`analysis.analyse`, and where the plan has additions, and there are scores of them, theirs below it.

    scores: as there, each file of one arm (or of one pair of arms). options: for `analyse`. late: additions that were
    put on record after scores existed; with one of them all of the family are exploratory. The decision gets
    `additions`: contrasts, late, claims (how many are tested together), gates, gate_notes. Raises ContractError as
    `analyse`.
    """
    if not plan.additions:
        return analyse(plan, scores, prompts, plan_changes=plan_changes, say=say, **options)
    arms = {path: arms_of(path) for files in find_scores(scores, plan).values() for path in files}
    own = [path for path, found in arms.items() if found <= set(plan.arms)]
    study = analyse(plan, own, prompts, plan_changes=plan_changes, say=say, **options)
    if len(own) == len(arms):  # another recipe of the study, which the added arms do not have
        return study
    theirs = replace(
        plan,
        contrasts=dict(plan.additions),
        primary_contrasts=(),
        additions={},
        question=replace(plan.question, rule=None, headline=None),
    )
    new = [arm for arm in theirs.arms if arm not in plan.arms]
    # Judgements without a new arm are the study's; a judge who was not asked about additions has no metric of them.
    read = [path for path, of in arms.items() if of <= set(theirs.arms) and (len(of) == 1 or of & set(new))]
    scored = {path.parent.name for path in read}
    metrics = {name: metric for name, metric in plan.metrics.items() if f"metric={name}" in scored}
    theirs = replace(theirs, metrics=metrics, primary_metric=next(iter(metrics)))
    say(f"additions: {', '.join(plan.additions)}, apart from the study")
    more = analyse(theirs, read, prompts, plan_changes=late, say=say, **options)
    tables = {name: joined(table, more.tables.get(name), new, plan) for name, table in study.tables.items()}
    tables |= {name: study.tables[name] for name in OF_THE_STUDY if name in tables}
    facts = {
        "contrasts": list(plan.additions),
        "late": list(late),
        "claims": sum(claim.family == "secondary" for claim in more.claims),
        "gates": {name: passed for name, passed in more.decision["gates"].items() if name != "plan_hash"},
        "gate_notes": [note for note in more.decision["gate_notes"] if not note.startswith("plan_hash")],
    }
    return Analysis([*study.claims, *more.claims], tables, {**study.decision, FAMILY: facts})


def arms_of(path: Path) -> set[str]:
    """The arms in a score file."""
    names = [name for name in ("arm", "arm_a", "arm_b") if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=names)
    return {arm for name in names for arm in pc.unique(table[name]).to_pylist()}


def joined(study: pa.Table, more: pa.Table | None, new: Sequence[str], plan: Plan) -> pa.Table:
    """A table of the study with that of the additions below it: their contrasts, and of arms those that are new."""
    if more is None:
        return study
    if "family" in more.column_names:
        place, kind = more.column_names.index("family"), more.schema.field("family")
        families = [family and FAMILY for family in more["family"].to_pylist()]
        more = more.set_column(place, kind, pa.array(families, kind.type))
    if "arm" in more.column_names:  # where a judge's outputs are counted, a contrast stands for an arm
        more = more.filter(pc.is_in(more["arm"], pa.array([*new, *plan.additions])))
    return pa.concat_tables([study, more.cast(study.schema)])
