"""What the study asks and how its answer is said: handed to `paired`, which knows no arm of its own."""

from __future__ import annotations

from study.vocabulary import ALL_ARMS, CONTRASTS, PRIMARY_CONTRASTS

# Keys and their meaning: paired.question.Question.
QUESTION = {
    "arms": {**ALL_ARMS, "base": "the base model"},
    "untrained": ["base"],
    "contrasts": {name: weights for name, (weights, *_) in CONTRASTS.items()},
    "primary": list(PRIMARY_CONTRASTS),
    "phrases": {
        "C7": {
            "name": "the gain of DPO after SFT minus its gain alone",
            "better": "DPO gains more after SFT than alone",
            "worse": "DPO gains less after SFT than alone",
        },
    },
    "rule": {"gain": "C1", "treatment": "DPO after SFT", "cost": "C2"},
    # Does DPO help (C1 after SFT, C3 from the base model), and does it need SFT first (C2)?
    "headline": {
        "first": "C1",
        "second": "C3",
        "third": "C2",
        "alike": "DPO {first}, both after SFT ({first_facts}) and straight from the base model ({second_facts})",
        "unlike": (
            "DPO after SFT {first} ({first_facts}), and DPO straight from the base model {second} ({second_facts})"
        ),
        "outcome": {
            "superior": "helps",
            "superior_negligible": "helps, but by less than matters",
            "inferior": "hurts",
            "inferior_negligible": "hurts, but by less than matters",
            "equivalent": "makes no difference that matters",
            "inconclusive": "is not shown to help or hurt",
            "not_testable": "could not be tested",
        },
        "third_outcome": {
            "superior": "SFT first is better than DPO alone",
            "superior_negligible": "SFT first is better than DPO alone, but by less than matters",
            "inferior": "it does not need SFT first: DPO alone is better",
            "inferior_negligible": "it does not need SFT first: DPO alone is better, if by less than matters",
            "equivalent": "it does not need SFT first: both ways end up equally good",
            "inconclusive": "whether it needs SFT first is open",
            "not_testable": "whether it needs SFT first could not be tested",
        },
    },
}
