"""docs/models.md says of each family and stack what happens when its tiny model goes through the programs."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "benchmarks"))

import families

from arms.job.files import UserError
from arms.model.architecture import check_config, check_rope, row_limit
from arms.scoring import decoding, generation
from arms.scoring.agreement import compare, eager_twin, first_layers_with_short_window, row_logps
from arms.stacks import NAME, STACKS, stack

ROWS = families.rows_of_page()
IN_EVERY_RUN = {
    "pinned": ("Mistral, rows longer than its window", "OPT", "Gemma 2", "Qwen 3"),
    "current": (
        *("Mistral, rows longer than its window", "OPT", "Gemma 2, strong caps, rows longer than its window", "Qwen 3"),
        *("Qwen 3 MoE", "Gemma 3", "DBRX", "Falcon, ALiBi"),
    ),
}[NAME]
OTHERS = pytest.mark.test_all("minutes for all families; every run tries those that are most unlike")
RUNNING = [name for name, row in ROWS.items() if not row[NAME].startswith("refused")]
TOLERANCE = 1e-4  # nats per token
ROPE_TYPE = {"pinned": "type", "current": "rope_type"}[NAME]  # in `rope_scaling`


@pytest.mark.parametrize("name", STACKS)
def test_every_family_has_its_row(name):
    assert list(ROWS) == list(families.FAMILIES)
    cells = [(families.FAMILIES[family][0], row[name]) for family, row in ROWS.items()]
    taken = STACKS[name]
    assert {kind for kind, cell in cells if not cell.startswith("refused: ")} == set(taken.SUPPORTED)
    assert {kind for kind, cell in cells if cell == "shared rows"} == set(taken.FORKING)
    assert {kind for kind, cell in cells if cell == "runs"} == set(taken.SUPPORTED) - set(taken.FORKING)
    assert not set(taken.REFUSED) & set(taken.SUPPORTED)
    assert set(taken.REFUSED) <= {kind for kind, _ in cells}
    assert all(len(cell) < 120 for _, cell in cells)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_EVERY_RUN else OTHERS) for name in families.FAMILIES]
)
def test_its_row_is_true(name):
    assert families.cell_of(name) == ROWS[name][NAME]


@pytest.mark.parametrize("name", RUNNING)
def test_it_computes_what_its_own_code_computes(name):
    """Padded rows, pairs that share one, answers from a cache: also with a window that is shorter than all of them."""
    model = families.tiny_model(*families.FAMILIES[name], 400)
    found = compare(model, torch.float32)
    if getattr(model.config, "sliding_window", None):
        with first_layers_with_short_window(model):
            found |= {f"{form}, window": difference for form, difference in compare(model, torch.float32).items()}
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("begin_alike", [True, False])
@pytest.mark.parametrize("name", RUNNING)
@torch.no_grad()
def test_its_answers_are_those_to_each_prompt_alone(name, begin_alike):
    """As `generation.Generator` asks: from the cache of `decoding`, after a beginning that all share, or not."""
    model = families.tiny_model(*families.FAMILIES[name], 400)
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randint(40, 400, (length,), generator=draw).tolist() for length in (12, 5, 30, 17)]
    rows = [parts[0] * begin_alike + part for part in parts[1:]]
    runs, new = decoding.runs(model), 4
    shared = decoding.shared_beginning(rows, model.config) if runs else 0
    ids, mask = generation.padded(rows, shared, 0, torch.device("cpu"))
    longest = ids.shape[1]
    given = {stack.CACHE: decoding.read(model, ids, mask, shared, longest + new)} if runs else {}
    asked = generation.GenerationConfig(max_new_tokens=new, do_sample=False, use_cache=True, pad_token_id=0)
    with decoding.grouped(model):
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=asked,
            output_logits=True,
            return_dict_in_generate=True,
            **given,
        )
    twin = eager_twin(model)
    for i, row in enumerate(rows):
        alone = row_logps(twin, torch.tensor([row + found.sequences[i, longest:].tolist()]), torch.float32)
        got = torch.stack([step[i] for step in found.logits]).float().log_softmax(-1)
        assert ((got - alone[len(row) - 1 : -1]).abs() * got.exp()).sum(-1).max() < TOLERANCE


def logits(kind: str, **changes) -> torch.Tensor:
    """Logits of a tiny random model for a row of 40 tokens, after a change of its configuration."""
    own = next(own for k, own in families.FAMILIES.values() if k == kind)
    with torch.inference_mode():
        return families.tiny_model(kind, {**own, "sliding_window": 4096, **changes}, 300)(
            torch.arange(20, 60)[None]
        ).logits


@pytest.mark.parametrize("kind", stack.SUPPORTED)
def test_whose_scaled_positions_and_windows_are_computed(kind):
    """Others take no notice, which is why they are refused (arms.model.architecture)."""
    plain = logits(kind)
    if kind not in ("phi3", "ministral3", "gemma4_text"):  # which know no linear scaling, or by kind of layer alone
        scaled = logits(kind, rope_scaling={ROPE_TYPE: "linear", "factor": 4.0})
        ignored = kind in stack.IGNORES_ROPE if NAME == "current" else kind not in stack.SCALES_ROPE
        assert torch.equal(plain, scaled) == ignored
    windowed = logits(kind, sliding_window=8, use_sliding_window=True, max_window_layers=1)
    assert torch.equal(plain, windowed) == (kind not in stack.COMPUTES_WINDOW)


def written(folder: Path, kind: str, **changes) -> Path:
    """A folder with the config.json of a family, as a file says it."""
    own = next(own for k, own in families.FAMILIES.values() if k == kind)
    named = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel", "olmo3": "Olmo3ForCausalLM"}.get(kind, kind)
    raw = {"model_type": kind, "architectures": [named], "vocab_size": 300, **own, **changes}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 128}


def yarn_angles(base: float, size: int) -> tuple[list[float], float]:
    """Peng et al. 2024 (arXiv:2309.00071), equations 17 to 22: angles of a position, and what scales the attention."""
    angles = []
    for place in range(0, size, 2):
        plain = base ** (-place / size)
        low, high = (size * math.log(64 / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1))
        low, high = max(math.floor(low), 0), min(math.ceil(high), size - 1)
        ramp = min(max((place / 2 - low) / (high - low), 0), 1)
        angles.append(plain / 4 * ramp + plain * (1 - ramp))
    return angles, 0.1 * math.log(4) + 1


def llama3_angles(base: float, size: int) -> tuple[list[float], float]:
    """Llama 3.1's: long waves are stretched by 8, short ones not, those between by something between."""
    angles = []
    for place in range(0, size, 2):
        plain = base ** (-place / size)
        share = min(max((128 * plain / (2 * math.pi) - 1) / (4 - 1), 0), 1)
        angles.append((1 - share) * plain / 8 + share * plain)
    return angles, 1.0


def linear_angles(base: float, size: int) -> tuple[list[float], float]:
    return [base ** (-place / size) / 2 for place in range(0, size, 2)], 1.0


@pytest.mark.skipif(NAME == "pinned", reason="refuses YaRN; what it takes is compared with itself by both names")
@pytest.mark.parametrize("base", [10000.0, 50.0])
@pytest.mark.parametrize(
    ("rope", "expected"),
    [(YARN, yarn_angles), (LLAMA3, llama3_angles), ({"type": "linear", "factor": 2.0}, linear_angles)],
)
def test_angles_are_those_of_the_papers(tmp_path, rope, expected, base):
    from transformers import AutoModelForCausalLM

    new = {"rope_type": rope.get("type"), **rope, "rope_theta": base}
    for changes in ({"rope_theta": base, "rope_scaling": rope}, {"rope_parameters": new}):
        config = check_config(written(tmp_path, "llama", head_dim=32, **changes))
        turned = AutoModelForCausalLM.from_config(config).model.rotary_emb
        angles, scale = expected(base, 32)
        torch.testing.assert_close(turned.inv_freq, torch.tensor(angles))
        assert turned.attention_scaling == pytest.approx(scale)


@pytest.mark.skipif(NAME == "pinned", reason="it does not know these kinds")
@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("gpt2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "ignores it in a gpt2"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "has full_attention, a kind of"),
        ("olmo3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "`rope_scaling` calls its kind `type`"),
        ("olmo3", {"rope_theta": 50.0}, "`rope_theta` is 50.0, and transformers reads 500000.0 for some"),
    ],
)
def test_positions_that_would_be_turned_otherwise_are_refused(tmp_path, kind, changes, words):
    with pytest.raises(UserError, match=words):
        check_config(written(tmp_path, kind, **changes))


@pytest.mark.skipif(NAME == "pinned", reason="test_fetch_model has its limits")
@pytest.mark.parametrize(
    ("kind", "changes", "limit"),
    [
        ("llama", {"sliding_window": 8}, 8),
        ("mistral", {"sliding_window": 8}, 256),
        ("phi3", {"rope_scaling": families.LONGROPE["rope_scaling"], "original_max_position_embeddings": 128}, 128),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 256),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, 512),
        ("bloom", {}, None),
    ],
)
def test_rows_no_longer_than_what_is_computed(tmp_path, kind, changes, limit):
    config = stack.config_of(written(tmp_path, kind, **changes), {})
    check_rope(config)
    assert (row_limit(config) or (None,))[0] == limit
