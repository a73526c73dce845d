"""docs/trl-versions.md, from results.json alone: what each version of TRL did."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from arms.training.cures import cure
from arms.training.tracebacks import refused, taken

PAGE = ROOT / "docs" / "trl-versions.md"
OF_STACKS = {"0.9.6": "train", "1.16.0": "train-current"}  # which groups of uv.lock have them, as a test checks
PINNED, CURRENT = OF_STACKS
CLOSE = 1e-4
ARGUMENT = re.compile(r"(\w+)\((\w+=[\w.]*)\)")  # a call that tries one argument
HEAD = """# Versions of TRL

Which version does what, found by doing it: `make map` runs the same calls and the same tiny DPO on each version, in
a locked environment of its own, and writes this page. This workflow pins {pinned}, and
{current} for `stack: current`. A traceback of yours:
`python3.11 scripts/doctor.py --traceback error.txt` knows the errors below and says the cure.

"""
GLANCE = """## At a glance

Statements that are made about TRL's DPOTrainer, each right or wrong by version.

"""
NAMES = """## Names

*yes*: taken; *deprecated*: taken with a warning; *no*: an error (below); a dash: the class is not there. Names that
all of them take alike are left out.

"""
REFERENCES = """## The reference really used

Loss and rewards of the first step say which: they are compared with those that follow from plain forward passes of
the bare base and of base and SFT adapter, over the very ids that the trainer fed (within 1e-4). *SFT* is the policy
before its first step, where the loss is ln 2. *Passes* of the model in a step are two if the reference runs, one if
its log-probabilities were there before. *Given* are false log-probabilities (0 and -50) in columns of the data:
where the loss follows them, such columns are used. Where SFT merged in memory has the *base* as its reference, TRL
has loaded that anew from the folder that the model's configuration names: save merged weights first, and load them.

"""
LOSSES = """## Losses

Six steps of all twelve pairs at once (so that the order plays no part), fp32, LoRA, from the same weights: a fresh
adapter, whose reference is the base.

"""
ERRORS = """## Errors and cures

"""
KEYWORDS = """An argument that a class does not know ends in `TypeError: CLASS.__init__() got an unexpected
keyword argument 'NAME'`:

"""
END = """
## What was run

`benchmarks/trl_map/probe.py`, in Python 3.11 on one CPU thread, without a GPU, on a random Llama of two layers; the
environments are `benchmarks/trl_map/locks/` and, for {pinned} and {current},
`uv.lock`. Other packages' versions matter, too
(`evaluation_strategy` is transformers' matter). Not tried: GPUs, several processes, quantized models, vision
models, other versions than these. `make map-check` runs {pinned} and 0.8.6 again and compares; the tests do the
same. Machine: {machine}.
"""


def page(results: dict) -> str:
    """The text of the page."""
    versions = results["versions"]
    machine = "; ".join(dict.fromkeys(one["machine"] for one in versions.values()))
    parts = [HEAD.format(pinned=PINNED, current=CURRENT), GLANCE, table("statement", versions, glance(versions))]
    parts += ["\n## Environments\n\n", table("", versions, packages(versions))]
    parts += ["\n", NAMES, table("call", versions, names(versions))]
    parts += ["\n", REFERENCES, table("policy and arguments", versions, references(versions))]
    parts += ["\n", LOSSES, table("loss of step", versions, losses(versions)), same_losses(versions)]
    parts += ["\n", ERRORS, KEYWORDS, keyword_errors(versions), "\nOther errors:\n\n", other_errors(versions)]
    return "".join([*parts, END.format(pinned=PINNED, current=CURRENT, machine=machine)])


def table(corner: str, versions: dict, rows: dict[str, list[str]]) -> str:
    """A Markdown table with a column for each version."""
    lines = [[corner, *versions], ["---"] * (1 + len(versions)), *([name, *cells] for name, cells in rows.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def packages(versions: dict) -> dict[str, list[str]]:
    """The packages that matter most."""
    shown = ("transformers", "peft", "accelerate", "torch")
    return {name: [one["packages"][name] for one in versions.values()] for name in shown}


def took(call: str) -> Callable[[dict], bool | None]:
    """A statement: this call is accepted."""
    return lambda one: None if (out := one["calls"][call]["outcome"]) == "absent" else out == "accepted"


def reference(case: str, name: str) -> Callable[[dict], bool | None]:
    """A statement: this case's reference is the one of that name."""
    return lambda one: None if (found := one["cases"][case])["outcome"] == "error" else found["reference"] == name


def uses_precomputed(one: dict) -> bool:
    """Whether the policy alone ran in a step with precompute_ref_log_probs."""
    return one["cases"]["kept_precompute"].get("passes") == 1


def moves(one: dict) -> bool:
    """Whether the loss of full fine-tuning with precompute_ref_log_probs leaves ln 2."""
    losses = one["cases"]["full_precompute"]["losses"]
    return abs(losses[-1] - losses[0]) > CLOSE


def uses_columns(one: dict) -> bool:
    """Whether given log-probabilities enter the loss, under either pair of names."""
    cases = (case for name, case in one["cases"].items() if name.startswith("columns_"))
    return any(case.get("reference") == "given" for case in cases)


STATEMENTS: dict[str, Callable[[dict], bool | None]] = {
    "`beta` is an argument of `DPOTrainer`": took("DPOTrainer(beta=)"),
    "`beta` is an argument of `DPOConfig`": took("DPOConfig(beta=)"),
    "the tokenizer is given as `tokenizer=`": took("DPOTrainer(tokenizer=)"),
    "the tokenizer is given as `processing_class=`": took("DPOTrainer(processing_class=)"),
    "`evaluation_strategy` is accepted": took("TrainingArguments(evaluation_strategy=)"),
    "`eval_strategy` is accepted": took("TrainingArguments(eval_strategy=)"),
    "`DPOConfig(padding_value=)` is accepted": took("DPOConfig(padding_value=)"),
    "… and is what rows are padded with": lambda one: (
        None
        if took("DPOConfig(padding_value=)")(one) is None
        else one["calls"]["DPOConfig(padding_value=)"].get("effect") == 77
    ),
    "`DPOConfig(max_prompt_length=)` is accepted": took("DPOConfig(max_prompt_length=)"),
    "plain `TrainingArguments` will do": took("DPOTrainer(args=TrainingArguments())"),
    "… and otherwise the error names `padding_value`": lambda one: (
        None
        if took("DPOTrainer(args=TrainingArguments())")(one)
        else "'padding_value'" in one["calls"]["DPOTrainer(args=TrainingArguments())"]["error"]
    ),
    "a BOS is put before the prompt": lambda one: one["cases"]["fresh"]["tokens"]["before the prompt"] != "",
    "kept SFT adapter, `ref_model=None`: the reference is the SFT policy": reference("kept", "sft"),
    "kept SFT adapter, `ref_model=None`: the reference is the bare base": reference("kept", "base"),
    "merged SFT model, trained whole, `ref_model=None`: the reference is the SFT policy": reference("merged", "sft"),
    "`precompute_ref_log_probs=True` saves the reference's passes": uses_precomputed,
    "… and full fine-tuning with it learns": moves,
    "columns of precomputed log-probabilities are used": uses_columns,
    "`peft_config` with a `PeftModel` is accepted": took("DPOTrainer(PeftModel, peft_config=)"),
}
CASES = {
    "fresh": "fresh adapter",
    "kept": "kept SFT adapter",
    "explicit": "kept SFT adapter, `ref_model=` the merged SFT model",
    "two_names": "SFT adapter twice, `model_adapter_name`, `ref_adapter_name`",
    "kept_peft_config": "kept SFT adapter, `peft_config=`",
    "merged_lora": "SFT merged in memory, `peft_config=`",
    "merged": "SFT merged in memory, all weights trained",
    "full": "base, all weights trained",
    "kept_precompute": "kept SFT adapter, `precompute_ref_log_probs=True`",
    "columns_reference": "kept SFT adapter, columns `reference_*_logps`",
    "columns_reference_flag": "… columns `reference_*_logps` and `precompute_ref_log_probs=True`",
    "columns_ref": "kept SFT adapter, columns `ref_*_logps`",
    "columns_ref_flag": "… columns `ref_*_logps` and `precompute_ref_log_probs=True`",
}
WORDS = {"base": "base", "sft": "SFT", "given": "given", "none of these": "?"}


def glance(versions: dict) -> dict[str, list[str]]:
    """Each statement, right or wrong."""
    words = {True: "right", False: "wrong", None: "–"}
    return {text: [words[judge(one)] for one in versions.values()] for text, judge in STATEMENTS.items()}


def names(versions: dict) -> dict[str, list[str]]:
    """The arguments and imports on which versions differ; those of a class that differ alike in one row."""
    alike = defaultdict(list)
    for call in next(iter(versions.values()))["calls"]:
        cells = tuple(name_cell(one["calls"][call]) for one in versions.values())
        if (ARGUMENT.fullmatch(call) or call.startswith("from trl")) and len({*cells} - {"–"}) > 1:
            alike[call.partition("(")[0], cells].append(call)
    return {together(calls): list(cells) for (_, cells), calls in alike.items()}


def together(calls: list[str]) -> str:
    """Calls with one argument each in one piece: those of a class as one call."""
    by_class = defaultdict(list)
    for call in calls:
        found = ARGUMENT.fullmatch(call)
        by_class[found[1] if found else call].append(found[2] if found else "")
    pieces = [f"{kind}({', '.join(names)})" if any(names) else kind for kind, names in by_class.items()]
    return ", ".join(map(code, pieces))


def name_cell(outcome: dict) -> str:
    """Of one call in one version."""
    if outcome["outcome"] != "accepted":
        return {"error": "no", "absent": "–"}[outcome["outcome"]]
    return "deprecated" if "warning" in outcome else "yes"


def references(versions: dict) -> dict[str, list[str]]:
    """Which reference each case had."""
    rows = {}
    for case, text in CASES.items():
        found = [one["cases"][case] for one in versions.values()]
        rows[text] = [reference_cell(case, one) for one in found]
    return rows


def reference_cell(case: str, found: dict) -> str:
    """Of one case in one version."""
    if found["outcome"] == "error":
        return "error"
    cell = (
        " and ".join(WORDS[name] for name in found["reference"].split(" and ")) if found["reference"] in WORDS else "?"
    )
    return (
        f"{cell}, {found['passes']} pass{'es' * (found['passes'] > 1)}"
        if "precompute" in case or "col" in case
        else cell
    )


def losses(versions: dict) -> dict[str, list[str]]:
    """The losses of the fresh adapter, step by step."""
    columns = [one["cases"]["fresh"]["losses"] for one in versions.values()]
    return {str(step): [f"{value:.6f}" for value in row] for step, row in enumerate(zip(*columns, strict=True))}


def same_losses(versions: dict) -> str:
    """Which versions have the same losses, and what tells the others apart."""
    groups: list[list[str]] = []
    for version, one in versions.items():
        for group in groups:
            other = versions[group[0]]["cases"]["fresh"]["losses"]
            if max(abs(a - b) for a, b in zip(one["cases"]["fresh"]["losses"], other, strict=True)) < CLOSE:
                group.append(version)
                break
        else:
            groups.append([version])
    said = []
    for group in groups:
        tokens = {tuple(versions[version]["cases"]["fresh"]["tokens"].values()) for version in group}
        before, end = (f"`{token}`" if token else "nothing" for token in next(iter(tokens)))
        said.append(f"{', '.join(group)} ({before} before the prompt, {end} after the answer)")
    return f"\nThe same losses within 1e-4 at every step: {'; '.join(said)}.\n"


def keyword_errors(versions: dict) -> str:
    """Arguments that some version does not know, with the cure; those of like cures in one row."""
    refusing = defaultdict(list)
    for version, one in versions.items():
        for call, error in refused(one):
            if is_keyword(call, error):
                refusing[call, shortened(call, cure(call, taken(one)))].append(version)
    alike = defaultdict(list)
    for (call, text), those in refusing.items():
        alike[text, tuple(those)].append(call)
    lines = [f"| {together(calls)} | {', '.join(those)} | {text} |\n" for (text, those), calls in alike.items()]
    return "| call | refused by | cure |\n|---|---|---|\n" + "".join(sorted(lines))


def shortened(call: str, text: str) -> str:
    """A cure without the names that its call has already said, so that like cures read alike."""
    kind, name = ARGUMENT.fullmatch(call).groups()
    text = re.sub(rf"write (\w+)\({re.escape(name)}\)", r"give it to `\1`", text)
    return re.sub(rf"write {kind}\((\w+=[\w.]*)\)", r"write `\1`", text)


def other_errors(versions: dict) -> str:
    """All other errors, word for word."""
    refusing = defaultdict(list)
    for version, one in versions.items():
        for call, error in refused(one):
            if not is_keyword(call, error):
                refusing[call, error, cure(call, taken(one))].append(version)
    rows = [
        f"| {code(call)} | {', '.join(those)} | {code(error)} | {text} |\n"
        for (call, error, text), those in refusing.items()
    ]
    return "| call | refused by | error | cure |\n|---|---|---|---|\n" + "".join(sorted(rows))


def is_keyword(call: str, error: str) -> bool:
    """Whether an error only says that a class does not know this argument."""
    return bool(ARGUMENT.fullmatch(call)) and "unexpected keyword argument" in error


def code(text: str) -> str:
    """Words of a program in a Markdown table."""
    return f"`` {text} ``".replace("|", "\\|") if "`" in text else f"`{text}`".replace("|", "\\|")
