"""What the report says of judges: counts, bias of position, agreement of two judges, warnings."""

import json

import pandas as pd
import pytest

from display.judges import agreement, judge_rows, position, read_judges

PROMPTS = 8
CARD = {"model": "m", "served": "m-1", "prompt": "p", "prompt_sha256": "f" * 64, "parameters": {"max_tokens": 9}}


def judged(folder, judge, run, other, verdict_of, unasked=()):
    """Write what a judge said; verdict_of(prompt, whether run is shown first) -> value of the first, or a status."""
    rows = []
    for i in range(PROMPTS):
        for first in (run, other):
            said = 0.5 if i in unasked else verdict_of(i, first == run)
            rows.append(
                {
                    "prompt_id": f"p{i}", "sample_idx": 0, "first": first,
                    "value": None if isinstance(said, str) else said,
                    "status": said if isinstance(said, str) else "ok",
                    "unasked": "same" if i in unasked else None, "finish_reason": "length", "fingerprint": "fp",
                }
            )  # fmt: skip
    target = folder / "judge" / judge / f"{run}-vs-{other}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(target)
    (folder / "judge" / f"{judge}.json").write_text(json.dumps(CARD))


def read(folder):
    return read_judges(sorted(folder.glob("judge/*.json")), sorted(folder.glob("judge/*/*.parquet")))


def preferences(name):
    numbers = dict.fromkeys(["equal_length", "equal_length_lo", "equal_length_hi"], None)
    return pd.DataFrame([{"metric": f"judge.{name}", "contrast": "C1", "wins": 3, "ties": 2, "losses": 1, **numbers}])


def page_of(folder, name="j"):
    return judge_rows(read(folder), preferences(name), 0.05)[0]


PAIR = ("sft_dpo-seed1", "sft-seed1")


def test_a_judge_that_always_says_a_is_named_however_many_were_not_asked(tmp_path):
    judged(tmp_path, "j", *PAIR, lambda i, first: 1.0, unasked=(0, 1))
    found = page_of(tmp_path)
    assert found["warnings"] == [
        "j is biased by position: the answer shown first wins 100.0 points net, and the two orders agree in 0% of the "
        "comparisons that were asked."
    ]
    assert found["rows"][0].items() >= {"unasked": 4, "agree": "0%", "first": "+100.0", "wins": 3}.items()


def test_a_judge_that_prefers_the_second_is_named_too(tmp_path):
    judged(tmp_path, "j", *PAIR, lambda i, first: 0.0 if i else float(first))
    assert "the answer shown second wins 87.5 points net" in page_of(tmp_path)["warnings"][0]


def test_a_judge_without_a_bias_is_not_warned_of(tmp_path):
    judged(tmp_path, "j", *PAIR, lambda i, first: float(first))  # the first arm wins, wherever it stands
    found = page_of(tmp_path)
    assert found["warnings"] == []
    assert found["rows"][0].items() >= {"agree": "100%", "first": "0.0"}.items()
    assert position(read(tmp_path)["j"]["said"], 0.05).bias == 0


def test_a_chance_imbalance_is_no_bias(tmp_path):
    judged(tmp_path, "j", *PAIR, lambda i, first: 1.0 if i == 0 else 0.0 if i == 1 else float(first == (i % 2)))
    assert page_of(tmp_path)["warnings"] == []


def test_nonsense_and_refusals_are_counted_and_told(tmp_path):
    judged(tmp_path, "j", *PAIR, lambda i, first: {2: "judge_fail", 3: "error"}.get(i, float(first)))
    found = page_of(tmp_path)
    assert (found["rows"][0]["judge_fail"], found["rows"][0]["error"]) == (2, 2)
    assert any(
        "2 of 16 questions gave no verdict, 2 of them since the judge's answer was cut" in one
        for one in found["warnings"]
    )


def test_two_judges_agree_as_often_as_they_do(tmp_path):
    judged(tmp_path, "one", *PAIR, lambda i, first: float(first))
    judged(
        tmp_path, "two", *PAIR, lambda i, first: 1.0 if i == 0 else float(first != (i < 3)) if i < 7 else "judge_fail"
    )
    # two: a tie over both orders at 0, the other arm at 1 and 2, the same arm at 3..6, nothing at 7
    assert agreement(read(tmp_path)) == [
        {"judges": ["one", "two"], "n": 7, "agree": "57%", "decided": 6, "same": "67%"},
    ]


def test_without_a_comparison_asked_there_is_no_position(tmp_path):
    judged(tmp_path, "j", *PAIR, lambda i, first: 1.0, unasked=range(PROMPTS))
    assert position(read(tmp_path)["j"]["said"], 0.05) is None
    assert page_of(tmp_path)["rows"][0]["first"] == "—"


@pytest.mark.parametrize("runs", [("sft-seed2", "base"), ("dpo_only-beta~0.3-seed1", "base")])
def test_the_contrast_of_two_runs_is_known(tmp_path, runs):
    judged(tmp_path, "j", *runs, lambda i, first: 1.0)
    assert set(read(tmp_path)["j"]["said"]["contrast"]) == {"C4" if runs[0].startswith("sft") else "C3"}
