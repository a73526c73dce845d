"""The token path, on tokenizers of the shapes that real models have: BOS, EOS and pad, templates, and overlong rows."""

import contextlib
import copy
import functools
import json
import random
import re
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenize_data
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from arms.data import encoding
from arms.data.encoding import BATCH, COMPLETIONS, Encoder
from arms.data.leakage import digest, normalise
from arms.data.templates import check_answer, peculiarities
from arms.data.token_rows import GROUP, TokenRows, read_tokens, token_tables, write_tokens
from arms.data.tokens import control_tokens, load_tokenizer
from arms.data.turns import CONTEXT, not_held_out
from arms.job.files import UserError, sha256_bytes
from arms.model.base_card import check_tokenizer
from arms.model.tiny import CHAT_TOKENS, CHATML, write_tokenizer
from arms.scoring.logps import completion_batch, pair_batch
from arms.stacks import NAME
from arms.training.sft import collate

SIDES = ("prompt_ids", "chosen_ids", "rejected_ids")


def encode_rows(rows: list[dict], kind: str, tokenizer, settings: dict, source: str) -> tuple[list[dict], dict]:
    """The token rows, and what was found."""
    encoder = Encoder(kind, tokenizer, settings, source)
    return list(encoder.rows(rows)), encoder.audit()


LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# shape -> the tokenizer's own settings and, if it puts one before plain text by itself, its BOS
SHAPES = {
    "smollm2": {
        "special": CHAT_TOKENS,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "chat_template": CHATML,
    },
    "qwen2-instruct": {
        "special": CHAT_TOKENS,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    },
    "qwen2-base": {
        "special": CHAT_TOKENS,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHATML,
    },
    "llama3": {
        "special": [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|reserved_special_token_0|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ],
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "chat_template": LLAMA3,
        "puts": "<|begin_of_text|>",
    },
    "llama2": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": LLAMA2,
        "puts": "<s>",
    },
    "gpt2": {"special": ["<|endoftext|>"], "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
}
# what the study must make of them: EOS, pad, and how often BOS is in a prompt
EXPECTED = {
    ("smollm2", "chat"): ("<|im_end|>", "<|endoftext|>", 2),  # its BOS opens every turn
    ("smollm2", "text"): ("<|im_end|>", "<|endoftext|>", 0),
    ("qwen2-instruct", "chat"): ("<|im_end|>", "<|endoftext|>", 0),
    ("qwen2-instruct", "text"): ("<|im_end|>", "<|endoftext|>", 0),
    ("qwen2-base", "chat"): ("<|im_end|>", "<|endoftext|>", 0),
    ("llama3", "chat"): ("<|eot_id|>", "<|reserved_special_token_0|>", 1),
    ("llama3", "text"): ("<|eot_id|>", "<|reserved_special_token_0|>", 1),
    ("llama2", "chat"): ("</s>", "<unk>", 1),
    ("llama2", "text"): ("</s>", "<unk>", 1),
    ("gpt2", "text"): ("<|endoftext|>", "ÿ", 0),
}
CASES = pytest.mark.parametrize(("shape", "template"), list(EXPECTED))
TEMPLATES = {"chat": "chat", "text": "Question: {prompt}\nAnswer:\n"}
TEXTS = ["Say river and stone.", "river stone, cloud; (quiet) Größe ÿ 日本 🙂"]
ROWS = [
    {
        "_row": number,
        "id": f"r{number}",
        "category": "a",
        "prompt": f"Say {number} words about {text}",
        "completion": text,
        "chosen": text,
        "rejected": f"{text}, no",
    }
    for number, text in enumerate(TEXTS, start=1)
]


def settings(**changes) -> dict:
    base = {"template": "chat", "system_prompt": None, "max_length": 512, "on_overlong": "error"}
    return {**base, "eos_after_truncation": True, **changes}


def write_llama2_tokenizer(folder: Path, kind: dict) -> dict[str, int]:
    """What SentencePiece's tokenizers look like in tokenizer.json: bytes as `<0x0A>`, spaces as U+2581."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghilmnoprstuvwySWINT"]
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("bos_token", "eos_token", "unk_token", "chat_template")
    chosen = {"tokenizer_class": "PreTrainedTokenizerFast", **{name: kind[name] for name in names}}
    (folder / "tokenizer_config.json").write_text(json.dumps(chosen))
    return tokenizer.get_vocab()


def make(folder: Path, shape: str, **changes) -> Path:
    """A model folder with a tokenizer of one shape and the card that fetch_model writes; returns model.json."""
    kind, weights = {**SHAPES[shape], **changes}, folder / "weights"
    weights.mkdir(parents=True)
    if shape == "llama2":
        vocabulary = write_llama2_tokenizer(weights, kind)
    else:
        vocabulary = write_tokenizer(kind, 400, TEXTS, weights)
    if "puts" in kind:
        content = json.loads((weights / "tokenizer.json").read_text())
        token = kind["puts"]
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]}},
        }
        (weights / "tokenizer.json").write_text(json.dumps(content))
    card, _ = check_tokenizer(weights, SimpleNamespace(vocab_size=len(vocabulary)))
    (folder / "model.json").write_text(json.dumps({"tokenizer": card}))
    return folder / "model.json"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Shape -> its tokenizer as every program of the study loads it."""
    folder = tmp_path_factory.mktemp("models")
    return {shape: load_tokenizer(make(folder / shape, shape)) for shape in SHAPES}


# --- special tokens ----------------------------------------------------------------------------------------------


@CASES
def test_special_tokens(tokenizers, shape, template):
    tokenizer = tokenizers[shape]
    eos, pad, bos_in_prompt = EXPECTED[shape, template]
    assert (tokenizer.eos_token, tokenizer.pad_token) == (eos, pad)
    for kind in COMPLETIONS:
        rows, audit = encode_rows(ROWS, kind, tokenizer, settings(template=TEMPLATES[template]), "f")
        for row in rows:
            prompt = row["prompt_ids"]
            assert prompt.count(tokenizer.bos_token_id) == bos_in_prompt
            assert (prompt[0] == tokenizer.bos_token_id) is (bos_in_prompt > 0)
            for side in COMPLETIONS[kind]:
                ids = row[f"{side}_ids"]
                assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
                assert tokenizer.pad_token_id not in prompt + ids
        assert audit["starts_with_bos"] is (bos_in_prompt > 0)


@CASES
def test_all_kinds_of_rows_have_the_same_prompt(tokenizers, shape, template):
    """What SFT, DPO and generation see before the completion, which ends where generation starts."""
    kinds = [
        encode_rows(ROWS, kind, tokenizers[shape], settings(template=TEMPLATES[template]), "f") for kind in COMPLETIONS
    ]
    assert len({json.dumps([row["prompt_ids"] for row in rows]) for rows, _ in kinds}) == 1
    sft, pairs = kinds[0][0], kinds[1][0]
    assert [row["completion_ids"] for row in sft] == [row["chosen_ids"] for row in pairs]
    text, frame = tokenizers[shape].decode(sft[0]["prompt_ids"]), kinds[0][1]["decided"]["frame"]
    # without white space: SentencePiece's tokenizers put a space before text that follows a special token
    assert "".join(frame.replace("{prompt}", ROWS[0]["prompt"]).split()) in "".join(text.split())
    assert tokenizers[shape].decode(sft[0]["completion_ids"], skip_special_tokens=True) == ROWS[0]["completion"]


@CASES
def test_eos_is_trained_once_in_every_arm(tokenizers, shape, template):
    """In the batches of both trainers: the labelled targets of each completion hold EOS once, and pad never."""
    tokenizer, chosen = tokenizers[shape], settings(template=TEMPLATES[template])
    sft, _ = encode_rows(ROWS, "sft", tokenizer, chosen, "f")
    pairs, _ = encode_rows(ROWS, "pairs", tokenizer, chosen, "f")
    batch = completion_batch([(row["prompt_ids"], row["completion_ids"]) for row in sft], tokenizer.pad_token_id)
    for target, segment in zip(batch["target"], batch["segment"], strict=True):
        assert target[segment > 0].tolist().count(tokenizer.eos_token_id) == 1
        assert tokenizer.pad_token_id not in target[segment > 0]
    for forking in (True, False):
        batch = pair_batch(pairs, tokenizer.pad_token_id, forking)
        labelled = batch["target"][batch["segment"] > 0]
        assert (labelled == tokenizer.eos_token_id).sum() == 2 * len(pairs)
        assert tokenizer.pad_token_id not in labelled


def test_what_was_decided_is_recorded(tokenizers):
    _, audit = encode_rows(ROWS, "sft", tokenizers["llama3"], settings(system_prompt="Be brief."), "f")
    decided = audit["decided"]
    assert decided["frame"].startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot")
    assert decided["chat_template_sha256"] == sha256_bytes(LLAMA3.encode())
    assert decided["adds_bos"] is True
    assert tokenizers["llama3"].convert_ids_to_tokens([decided[f"{name}_id"] for name in ("bos", "eos", "pad")]) == [
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|reserved_special_token_0|>",
    ]
    _, audit = encode_rows(ROWS, "sft", tokenizers["gpt2"], settings(template="{prompt}:"), "f")
    assert audit["decided"]["chat_template_sha256"] is None
    assert (audit["decided"]["frame"], audit["decided"]["adds_bos"]) == ("{prompt}:", False)


def test_gpt2_pads_with_a_byte_that_no_text_holds(tmp_path):
    """Every character of Unicode, alone and in random neighbourhoods, before and after loading the tokenizer again."""
    model = make(tmp_path, "gpt2")
    tokenizer = load_tokenizer(model)
    pad = tokenizer.pad_token_id
    assert pad not in (None, tokenizer.eos_token_id, tokenizer.bos_token_id)
    characters = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    draw = random.Random(0)
    shuffled = draw.sample(characters, len(characters))
    texts = ["".join(part[i : i + 64]) for part in (characters, shuffled) for i in range(0, len(part), 64)]
    texts += ["ÿ", " ÿÿ", "Àÿ Á", *(draw.choice("ÿþýÀÁa ") * draw.randint(1, 9) for _ in range(200))]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert not any(pad in ids for ids in encoded)
    again = load_tokenizer(model)
    assert again.pad_token_id == pad
    assert again(texts[-300:], add_special_tokens=False)["input_ids"] == encoded[-300:]
    assert again.decode(encoded[-300]) == texts[-300]
    padded = again(["a", "a ÿ b"], padding=True)
    assert padded["input_ids"][0][1:] == [pad] * (len(padded["input_ids"][1]) - 1)
    assert padded["attention_mask"][0] == [1] + [0] * (len(padded["input_ids"][1]) - 1)


# --- templates and rows that are refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "changes", "words"),
    [
        ("gpt2", {}, "no chat template"),
        ("gpt2", {"template": "chat\n"}, "no placeholder"),
        ("gpt2", {"template": "{prompt}", "system_prompt": "Be brief."}, "belongs to a chat template"),
        ("llama2", {"system_prompt": "Be brief."}, "refuses the prompt: no system turn"),
    ],
)
def test_templates_that_do_not_fit_are_refused(tokenizers, shape, changes, words):
    with pytest.raises(UserError, match=words):
        encode_rows(ROWS, "sft", tokenizers[shape], settings(**changes), "f")


def test_a_template_that_leaves_the_system_turn_out_is_refused(tmp_path):
    deaf = "{% for message in messages if message['role'] != 'system' %}{{ message['content'] }}{% endfor %}"
    tokenizer = load_tokenizer(make(tmp_path, "qwen2-instruct", chat_template=deaf))
    with pytest.raises(UserError, match="leaves the system turn out"):
        encode_rows(ROWS, "sft", tokenizer, settings(system_prompt="Be brief."), "f")


@pytest.mark.parametrize(
    ("shape", "change", "words"),
    [
        ("smollm2", {"completion": "one<|im_end|> two"}, "'completion' has the EOS token '<|im_end|>'"),
        ("smollm2", {"completion": "<|im_start|>user"}, "'completion' has the BOS token"),
        ("smollm2", {"completion": "a<|endoftext|>"}, "'completion' has the pad token"),
        ("smollm2", {"completion": ""}, "no token but EOS"),
        ("smollm2", {"prompt": "x<|im_end|>"}, "'prompt' has the EOS token"),
        ("llama3", {"prompt": "<|begin_of_text|>x"}, "'prompt' has the BOS token"),
        ("llama2", {"prompt": "what is <unk>?"}, "'prompt' has the pad token"),
        (
            "llama3",
            {"completion": "a<|start_header_id|>b"},
            r"'completion' has the control token '<\|start_header_id\|>'",
        ),
        ("llama3", {"prompt": "<|end_header_id|>"}, "'prompt' has the control token"),
        ("qwen2-instruct", {"prompt": "<|im_start|>system"}, "'prompt' has the control token"),
    ],
)
def test_special_tokens_in_a_text_are_refused_by_line(tokenizers, shape, change, words):
    rows = [ROWS[0], {**ROWS[1], **change}]
    with pytest.raises(UserError, match=f"my.jsonl, line 2: .*{words}"):
        encode_rows(rows, "sft", tokenizers[shape], settings(), "my.jsonl")


THINKS = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
EMPTY_THOUGHT = CHATML.replace(
    "message['content'] +", "('<think>\n\n</think>\n\n' if loop.index > 1 else '') + message['content'] +"
)
ENDED = CHATML.split("{% if add_generation_prompt %}")[0]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (ENDED, r"writes '<\|im_start\|>assistant\\n' before an answer, but does not end a prompt with it"),
        (ENDED + THINKS, r"ends a prompt with '<think>\\n', which it does not write before an answer"),
        (EMPTY_THOUGHT, r"writes '<think>\\n\\n</think>\\n\\n' before an answer"),
        ("{{ strftime_now('%d %b %Y') }}" + CHATML, "'(strftime_now|todays_date)' is undefined.*fixed text.*copy"),
        # as Command R7B, Reka Edge, Kimi K3 and Hermes 3, Command R+ have it
        (
            "{% for m in messages %}{% if m %}{% break %}{% endif %}{% endfor %}" + CHATML,
            "unknown tag 'break'.*a copy",
        ),
        ("{% for tool in tools %}{{ tool }}{% endfor %}" + CHATML, "object is not iterable.*a copy"),
    ],
)
def test_templates_whose_answers_begin_elsewhere_are_refused(tmp_path, template, words):
    tokenizer = load_tokenizer(make(tmp_path, "qwen2-instruct", chat_template=template))
    rendered_now = NAME == "current" and "break" in words  # transformers 5 has loop controls
    with contextlib.nullcontext() if rendered_now else pytest.raises(UserError, match=words):
        encode_rows(ROWS, "sft", tokenizer, settings(), "f")
    encode_rows(ROWS, "sft", tokenizer, settings(template="Q: {prompt}\nA: "), "f")


def test_no_date_of_today_gets_into_rows(tmp_path):
    """As Llama 3.1 asks: transformers 5 has a clock for templates, and without one they write a fixed date."""
    dated = "{{ strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' }}" + CHATML
    tokenizer = load_tokenizer(make(tmp_path, "qwen2-instruct", chat_template=dated))
    (row,) = encode_rows(ROWS[:1], "sft", tokenizer, settings(), "f")[0]
    assert tokenizer.decode(row["prompt_ids"]).startswith("26 Jul 2024")


def test_a_row_whose_turns_the_template_refuses_is_named(tmp_path):
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer = load_tokenizer(make(tmp_path, "qwen2-instruct", chat_template=template + CHATML))
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    row = {**ROWS[0], "_turns": turns, "_place": "f.parquet, row 7"}
    with pytest.raises(UserError, match=r"f.parquet, row 7: .* refuses these turns: System role not supported; leave"):
        encode_rows([row], "sft", tokenizer, settings(), "f")


def test_a_space_before_the_answer_is_told(tokenizers):
    assert check_answer(tokenizers["smollm2"], settings()) is None
    told = check_answer(tokenizers["llama2"], settings())
    assert "b7390 [/INST] ' before an answer, and ends a prompt with" in told


HEADED = "{{ '<|im_start|>' + m['role'] + '\n' + %s + '<|im_end|>\n' }}"
ASKED = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
PLAIN = "{% for m in messages %}" + HEADED % "m['content']" + "{% endfor %}" + ASKED
# What the templates of well-known models do, each in its shortest form: name -> template, what is told of it
OF_MODELS = {
    "SmolLM2, Qwen2.5: a system turn of its own": (
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI.<|im_end|>\n' }}{% endif %}" + PLAIN,
        [r"has a system turn of its own: a prompt begins '<\|im_start\|>system\\nYou are a helpful AI\."],
    ),
    "Llama 3.1: a date, a system turn always, trimmed turns": (
        "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
        "{% if messages[0]['role'] == 'system' %}"
        "{% set system, messages = messages[0]['content'], messages[1:] %}{% endif %}"
        "{{ '<|im_start|>system\nToday Date: ' + date_string + '\n\n' + (system or '') | trim + '<|im_end|>\n' }}"
        "{% for m in messages %}" + HEADED % "m['content'] | trim" + "{% endfor %}" + ASKED,
        ["writes the date '26 Jul 2024' into every prompt", "trims the white space around a turn"],
    ),
    "Qwen3: thoughts of earlier answers stripped": (
        "{% for m in messages %}{% set text = m['content'].split('</think>')[-1] if not loop.last else m['content'] %}"
        + HEADED % "text"
        + "{% endfor %}"
        + ASKED,
        [r"leaves out the thoughts \(<think>\) of earlier answers"],
    ),
    "Mistral: the system turn goes into the last user turn": (
        "{% set system = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
        "{% set turns = messages[1:] if system else messages %}{% for m in turns %}{% if m['role'] == 'user' %}"
        "{{ '[INST]' + (system if loop.index0 // 2 == (turns | length - 1) // 2 else '') + m['content'] + '[/INST]' }}"
        "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
        ["reorders the turns of a conversation"],
    ),
    "Gemma: no system turn, trimmed turns": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}" + HEADED % "m['content'] | trim" + "{% endfor %}" + ASKED,
        ["trims the white space around a turn", "refuses a system turn"],
    ),
    "an answer that ends otherwise": (
        PLAIN.replace("'<|im_end|>\n'", "'<|endoftext|>\n'"),
        [r"ends an answer with '<\|endoftext\|>\\n'; here answers end with the tokenizer's EOS, '<\|im_end\|>'"],
    ),
    "an earlier turn that changes later": (
        "{% if messages | length > 2 %}{{ '<|im_start|>tool\nlong<|im_end|>\n' }}{% endif %}" + PLAIN,
        ["renders a turn otherwise once the conversation goes on"],
    ),
    "one turn alone": (
        "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + PLAIN,
        ["refuses a conversation of several turns"],
    ),
    "nothing odd": (PLAIN, []),
}


@pytest.mark.parametrize("name", OF_MODELS)
def test_what_a_template_does_with_its_turns_is_told(tmp_path, name):
    template, words = OF_MODELS[name]
    tokenizer = load_tokenizer(make(tmp_path, "qwen2-instruct", chat_template=template))
    tokenizer.eos_token = "<|im_end|>"
    told = peculiarities(tokenizer, settings())
    assert len(told) == len(words), told
    for line, pattern in zip(told, words, strict=True):
        assert re.search(pattern, line), line
    assert peculiarities(tokenizer, settings(template="Q: {prompt}\nA: ")) == []
    _, audit = encode_rows(ROWS, "pairs", tokenizer, settings(), "f")
    assert audit["template"] == told


def test_a_first_token_that_prompt_and_answer_share_is_told(tokenizers):
    """Of tokenizers that merge over the boundary: "b73" and "90" of one number, where no turn ends in between."""
    tokenizer = copy.deepcopy(tokenizers["qwen2-instruct"])
    tokenizer.add_tokens(["90b7391"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert "share a token; here they are tokenised apart" in peculiarities(tokenizer, settings())[0]


def test_rows_whose_turns_a_template_changes_are_counted(tmp_path):
    tokenizer = load_tokenizer(
        make(tmp_path, "qwen2-instruct", chat_template=OF_MODELS["Qwen3: thoughts of earlier answers stripped"][0])
    )
    turns = conversation("user", "assistant", "user")
    thinks = [turns[0], {"role": "assistant", "content": "<think>hm</think>river"}, turns[2]]
    rows = [
        {**ROWS[0], "_turns": own, "_place": f"my.jsonl, line {n}"} for n, own in enumerate((turns, thinks, thinks))
    ]
    _, audit = encode_rows(rows, "sft", tokenizer, settings(), "f")
    assert audit["template"][-1] == (
        "the model's chat template leaves out or changes the text of a turn in 2 rows, first the assistant's in "
        "my.jsonl, line 1"
    )


def test_what_a_vocabulary_lacks_is_no_control_token(tokenizers):
    """Llama-2's <unk> is refused where it pads, and because it does."""
    tokenizer = copy.deepcopy(tokenizers["llama2"])
    assert control_tokens(tokenizer) == {1: "BOS", 2: "EOS", 0: "pad"}
    tokenizer.pad_token = "</s>"
    assert 0 not in control_tokens(tokenizer)


def test_an_eos_that_ends_a_completion_already_is_not_doubled(tokenizers):
    ended = [{**row, "completion": row["completion"] + "<|im_end|>"} for row in ROWS]
    before, _ = encode_rows(ROWS, "sft", tokenizers["smollm2"], settings(), "f")
    after, _ = encode_rows(ended, "sft", tokenizers["smollm2"], settings(), "f")
    assert before == after


def test_conversations_rendered_beforehand_keep_their_special_tokens(tokenizers):
    """With a text template the prompt's author decides; BOS still comes once."""
    tokenizer = tokenizers["llama3"]
    rows = [{**ROWS[0], "prompt": "<|begin_of_text|>hi<|eot_id|>there<|eot_id|>"}]
    (row,), _ = encode_rows(rows, "sft", tokenizer, settings(template="{prompt}"), "f")
    assert row["prompt_ids"].count(tokenizer.bos_token_id) == 1
    assert row["prompt_ids"].count(tokenizer.eos_token_id) == 2


def test_a_pair_that_the_tokenizer_makes_alike_is_refused(tmp_path):
    model = make(tmp_path, "qwen2-instruct")
    path = tmp_path / "weights" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": {"type": "NFC"}}))
    row = {**ROWS[0], "chosen": "é", "rejected": unicodedata.normalize("NFD", "é")}
    with pytest.raises(UserError, match="line 1: 'chosen' and 'rejected' are the same"):
        encode_rows([row], "pairs", load_tokenizer(model), settings(), "f")


# --- overlong rows -----------------------------------------------------------------------------------------------


def overlong_rows() -> list[dict]:
    """300 pairs of all lengths; some completions differ late only, some prompts fill the room."""
    draw = random.Random(1)

    def words(most: int) -> str:
        return " ".join(draw.choice(["river", "stone", "cloud", "quiet"]) for _ in range(draw.randint(1, most)))

    rows = []
    for number in range(300):
        shared = words(30)
        chosen, rejected = (f"{shared} {words(6)} {end}" for end in ("yes", "no"))
        row = {"_row": number + 1, "id": str(number), "category": "a", "prompt": words(40)}
        rows.append({**row, "chosen": chosen, "rejected": rejected, "completion": chosen})
    return rows


@pytest.mark.parametrize("kind", ["sft", "pairs"])
@pytest.mark.parametrize("eos_after", [True, False])
@pytest.mark.parametrize(("shape", "template"), [("llama3", "chat"), ("gpt2", "text"), ("qwen2-base", "chat")])
def test_truncate(tokenizers, shape, template, kind, eos_after):
    tokenizer, rows, sides = tokenizers[shape], overlong_rows(), COMPLETIONS[kind]
    limits = {"template": TEMPLATES[template], "max_length": 64}
    whole, _ = encode_rows(rows, kind, tokenizer, settings(**{**limits, "max_length": 10_000}), "f")
    kept, audit = encode_rows(
        rows, kind, tokenizer, settings(**limits, on_overlong="truncate", eos_after_truncation=eos_after), "f"
    )
    dropped, _ = encode_rows(rows, kind, tokenizer, settings(**limits, on_overlong="drop"), "f")
    eos, overlong = tokenizer.eos_token_id, audit["overlong"]
    assert all(len(row["prompt_ids"] + row[f"{side}_ids"]) <= 64 for row in kept for side in sides)
    before = {row["id"]: row for row in whole}
    cuts = dict.fromkeys(sides, 0)
    for row in kept:
        assert row["prompt_ids"] == before[row["id"]]["prompt_ids"]
        for side in sides:
            ids, uncut = row[f"{side}_ids"], before[row["id"]][f"{side}_ids"]
            assert len(ids) >= 2
            if ids == uncut:
                assert ids.index(eos) == len(ids) - 1
                continue
            cuts[side] += 1
            assert len(row["prompt_ids"] + ids) == 64
            assert ids[:-1] == uncut[: len(ids) - 1]
            assert ids.count(eos) == (1 if eos_after else 0)
            assert (ids[-1] == eos) is eos_after
        assert kind == "sft" or row["chosen_ids"] != row["rejected_ids"]
    # what was cut or left out is counted, by side, and nothing else is missing
    assert overlong["cut"] == cuts
    assert overlong["lost_eos"] == ({} if eos_after else cuts)
    assert min(cuts.values()) > 5
    assert overlong["by_side"]["prompt"] > 5
    assert len(rows) == len(kept) + overlong["by_side"]["prompt"] + overlong["identical"]
    assert (overlong["identical"] > 5) is (kind == "pairs")
    assert {row["id"] for row in dropped} == {str(n) for n in range(300)} - {str(n - 1) for n in overlong["rows"]}
    assert all(row == before[row["id"]] for row in dropped)


def test_a_prompt_that_leaves_room_for_two_tokens_is_kept(tokenizers):
    tokenizer = tokenizers["gpt2"]
    chosen = {"template": "{prompt}", "on_overlong": "truncate"}
    row = {**ROWS[0], "completion": "river stone river stone"}
    prompt = encode_rows([row], "sft", tokenizer, settings(template="{prompt}"), "f")[0][0]["prompt_ids"]
    (kept,), _ = encode_rows([row], "sft", tokenizer, settings(**chosen, max_length=len(prompt) + 2), "f")
    assert kept["completion_ids"][1:] == [tokenizer.eos_token_id]
    with pytest.raises(UserError, match=r"no row is left within tokens\.max_length"):
        encode_rows([row], "sft", tokenizer, settings(**chosen, max_length=len(prompt) + 1), "f")


@pytest.mark.parametrize("kind", list(COMPLETIONS))
def test_error_names_the_lines_and_sides(tokenizers, kind):
    rows = [{**row, "prompt": "river " * 300} if row["_row"] in (3, 7) else row for row in overlong_rows()[:9]]
    with pytest.raises(UserError, match=r"2 rows are longer than .* 256 .*f, line 3; f, line 7; {'prompt': 2}.*trunc"):
        encode_rows(rows, kind, tokenizers["smollm2"], settings(max_length=256), "f")


def test_token_rows_are_those_that_were_written(tmp_path):
    """By index, in slices, in turn, across row groups, and with columns of their own."""
    draw = random.Random(0)
    rows = [
        {
            "id": f"p{n}",
            "category": "a",
            **{name: draw.choices(range(50_000), k=draw.randrange(1, 9)) for name in SIDES},
        }
        for n in range(GROUP + 300)
    ]
    write_tokens(tmp_path / "t.parquet", token_tables(rows))
    found = read_tokens(tmp_path / "t.parquet")
    assert list(found) == rows
    assert (len(found), found.ids()[-1]) == (len(rows), f"p{GROUP + 299}")
    assert [found[n] for n in (0, 7, GROUP - 1, GROUP, -1)] == [rows[n] for n in (0, 7, GROUP - 1, GROUP, -1)]
    with pytest.raises(IndexError):
        found[len(rows)]
    for part in (slice(5, 9), slice(GROUP - 2, GROUP + 2), slice(-3, None), slice(9, 5)):
        assert list(found[part]) == rows[part]
    more = found[2:5].with_columns(margin=[0.5, 1.5, -2.0])
    assert list(more) == [{**row, "margin": value} for row, value in zip(rows[2:5], (0.5, 1.5, -2.0), strict=True)]
    assert list(TokenRows.of(rows)) == rows
    assert found.map(None) is found


@pytest.mark.parametrize("action", ["drop", "truncate"])
def test_any_number_of_processes_makes_the_same_tokens(tmp_path, monkeypatch, action):
    """Six batches, of which the last four go to other processes; rows that are too long are at the same lines."""
    model = make(tmp_path, "smollm2")
    draw = random.Random(4)
    rows = [
        {**ROWS[0], "_row": n, "id": str(n), "completion": "river " * draw.randrange(1, 30)}
        for n in range(6 * BATCH - 9)
    ]
    ((row,), _) = encode_rows(ROWS[:1], "sft", load_tokenizer(model), settings(), "f")
    chosen = settings(max_length=len(row["prompt_ids"]) + 20, on_overlong=action)
    monkeypatch.setattr(encoding, "ALONE", 2)
    again = functools.partial(tokenize_data.encoder_of, str(model), "sft", chosen, "f")
    made = {}
    for processes in (1, 3):
        encoder, path = Encoder("sft", load_tokenizer(model), chosen, "f"), tmp_path / f"{processes}.parquet"
        write_tokens(path, encoder.tables(rows, processes, again))
        made[processes] = path.read_bytes(), encoder.audit()
    assert made[1] == made[3]
    audit = made[1][1]
    assert len(audit["overlong"]["rows"]) > 50
    kept = read_tokens(tmp_path / "3.parquet")
    assert (audit["rows"], audit["kept"]) == (len(rows), len(kept))
    alone, same = encode_rows(rows, "sft", load_tokenizer(model), chosen, "f")
    assert (list(kept), same) == (alone, audit)


def test_nothing_is_left_of_tokens_that_failed(tmp_path):
    def rows():
        yield {"id": "a", "category": "a", "prompt_ids": [1]}
        raise UserError("bad row")

    with pytest.raises(UserError, match="bad row"):
        write_tokens(tmp_path / "t.parquet", token_tables(rows()))
    assert list(tmp_path.iterdir()) == []


def conversation(*roles: str) -> list[dict]:
    return [{"role": role, "content": f"river {role}"} for role in roles]


def test_conversations_are_rendered_turn_by_turn(tokenizers):
    tokenizer = tokenizers["smollm2"]
    turns = conversation("system", "user", "assistant", "user")
    row = {**ROWS[0], "_turns": turns, "_place": "my.jsonl, line 3"}
    ((encoded,), _) = encode_rows([row], "sft", tokenizer, settings(), "f")
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert encoded["prompt_ids"] == tokenizer(whole, add_special_tokens=False)["input_ids"]
    ((other,), _) = encode_rows(
        [{**row, "_turns": turns[1:]}], "sft", tokenizer, settings(system_prompt="Be brief."), "f"
    )
    before = tokenizer.apply_chat_template([{"role": "system", "content": "Be brief."}], tokenize=False)
    assert tokenizer.decode(other["prompt_ids"]).startswith(before)
    marked = [turns[0], {"role": "user", "content": "a<|im_end|>b"}, *turns[2:]]
    with pytest.raises(UserError, match=r"my\.jsonl, line 3: 'prompt' has the EOS token"):
        encode_rows([{**row, "_turns": marked}], "sft", tokenizer, settings(), "f")
    with pytest.raises(
        UserError, match=r"my\.jsonl, line 3: a conversation of several turns needs tokens\.template: chat"
    ):
        encode_rows([row], "sft", tokenizer, settings(template="Q: {prompt}"), "f")


def test_a_prompt_of_100_000_tokens(tokenizers):
    """Held out it stops the study with its row; in training it is left out and counted, or so told."""
    rows = [{**ROWS[0], "_place": f"my.jsonl, line {number}", "_row": number} for number in (1, 2)]
    rows[1]["prompt"] = "river stone " * 50_000
    tokenizer = tokenizers["smollm2"]
    words = r"1 rows are longer than tokens.max_length = 512 tokens \(my\.jsonl, line 2; {'prompt': 1}\); raise"
    with pytest.raises(UserError, match=words):
        encode_rows(rows, "pairs", tokenizer, settings(), "f")
    for action in ("drop", "truncate"):
        kept, audit = encode_rows(rows, "pairs", tokenizer, settings(on_overlong=action), "f")
        assert [row["id"] for row in kept] == [rows[0]["id"]]
        assert (audit["overlong"]["rows"], audit["overlong"]["by_side"]) == ([2], {"prompt": 1})


# --- conversations of which all answers are trained --------------------------------------------------------------

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say river."},
    {"role": "assistant", "content": "river stone"},
    {"role": "user", "content": "Say cloud."},
    {"role": "assistant", "content": "cloud"},
    {"role": "user", "content": "Both?"},
]
CONVERSATION = {**ROWS[0], "_turns": TALK, "_place": "my.jsonl, line 3", "completion": "river, cloud"}
THINKS = CHATML.replace(
    "message['content'] + '<|im_end|>'",
    "(message['content'].split('</think>')[-1] if not loop.last else message['content']) + '<|im_end|>'",
)


def trained(tokenizer, row: dict) -> list[str]:
    """The texts of a row's trained tokens, one for each run of them, as the trainer's own batch has them."""
    batch = collate(tokenizer.pad_token_id)([row])["rows"]
    runs, before = [], 0
    for number, segment in zip(batch["target"][0].tolist(), batch["segment"][0].tolist(), strict=True):
        if segment:
            runs += [[]] if not before else []
            runs[-1].append(number)
        before = segment
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("shape", ["smollm2", "qwen2-instruct", "llama3"])
def test_all_answers_are_trained_on_the_same_tokens(tokenizers, shape):
    tokenizer = tokenizers[shape]
    (last,), _ = encode_rows([CONVERSATION], "sft", tokenizer, settings(), "f")
    ((every,), _), (single,) = (
        encode_rows([CONVERSATION], "sft", tokenizer, settings(assistant_turns="all"), "f"),
        encode_rows([ROWS[0]], "sft", tokenizer, settings(assistant_turns="all"), "f")[0],
    )
    assert last["prompt_ids"] + last["completion_ids"] == every["prompt_ids"] + every["completion_ids"]
    eos = tokenizer.eos_token
    assert trained(tokenizer, last) == [f"river, cloud{eos}"]
    assert trained(tokenizer, every) == [f"river stone{eos}", f"cloud{eos}", f"river, cloud{eos}"]
    plain = encode_rows([ROWS[0]], "sft", tokenizer, settings(), "f")[0][0]
    assert single == {**plain, CONTEXT: []}
    assert last.keys() == plain.keys(), "a study that trains the last answer has the token file that it had"


def test_each_trained_token_meets_what_a_generation_meets(tokenizers):
    """The ids before an answer are those of the prompt that generation gives the model for it."""
    tokenizer = tokenizers["smollm2"]
    (row,), _ = encode_rows([CONVERSATION], "sft", tokenizer, settings(assistant_turns="all"), "f")
    ids, first, spans = row["prompt_ids"] + row["completion_ids"], len(row["prompt_ids"]), row[CONTEXT]
    starts = [first, *(first + end for end in spans[1::2])]
    prompts = [{**ROWS[0], "_turns": TALK[:length], "_place": "x"} for length in (2, 4, 6)]
    found, _ = encode_rows(prompts, "prompts", tokenizer, settings(), "f")
    assert [ids[:start] for start in starts] == [prompt["prompt_ids"] for prompt in found]


def test_a_template_that_renders_earlier_answers_otherwise_is_told(tmp_path):
    tokenizer = load_tokenizer(make(tmp_path / "thinks", "smollm2", chat_template=THINKS))
    (row,), _ = encode_rows([CONVERSATION], "sft", tokenizer, settings(assistant_turns="all"), "f")
    assert len(row[CONTEXT]) == 4, "without reasoning nothing is left out"
    talk = [*TALK[:2], {"role": "assistant", "content": "<think>so</think>river stone"}, *TALK[3:]]
    words = (
        r"my\.jsonl, line 3: in the whole conversation .* text and end of turn 3, an answer, otherwise than on its own"
    )
    with pytest.raises(UserError, match=words):
        encode_rows([{**CONVERSATION, "_turns": talk}], "sft", tokenizer, settings(assistant_turns="all"), "f")
    encode_rows([{**CONVERSATION, "_turns": talk}], "sft", tokenizer, settings(assistant_turns="last"), "f")


def test_an_overlong_conversation_ends_with_an_answer_that_fits(tokenizers):
    tokenizer = tokenizers["smollm2"]
    asked = settings(assistant_turns="all", on_overlong="truncate")
    (whole,), _ = encode_rows([CONVERSATION], "sft", tokenizer, asked, "f")
    total, first = len(whole["prompt_ids"]) + len(whole["completion_ids"]), len(whole["prompt_ids"])
    ends = [first + end for end in whole[CONTEXT][::2]]
    eos = tokenizer.eos_token
    for length, texts in [
        (total, [f"river stone{eos}", f"cloud{eos}", f"river, cloud{eos}"]),
        (total - 1, [f"river stone{eos}", f"cloud{eos}"]),
        (ends[1], [f"river stone{eos}", f"cloud{eos}"]),
        (ends[1] - 1, [f"river stone{eos}"]),
        (ends[0], [f"river stone{eos}"]),
    ]:
        (row,), audit = encode_rows([CONVERSATION], "sft", tokenizer, {**asked, "max_length": length}, "f")
        assert trained(tokenizer, row) == texts
        assert len(row["prompt_ids"]) + len(row["completion_ids"]) <= length
        assert audit["overlong"]["cut"] == ({"completion": 1} if length < total else {})
    (row,), _ = encode_rows([CONVERSATION], "sft", tokenizer, {**asked, "max_length": ends[0] - 1}, "f")
    assert row["completion_ids"][-1] == tokenizer.eos_token_id
    assert len(row["prompt_ids"]) + len(row["completion_ids"]) == ends[0] - 1


def test_an_earlier_prompt_that_is_held_out_is_told():
    """Of the conversation as a whole rule check_data tells it."""
    held = [{digest(normalise(text))} for text in ("say  RIVER.", "Say river.\n\nriver stone\n\nSay cloud.")]
    for heldout, turn in zip(held, (3, 5), strict=True):
        words = rf"my\.jsonl, line 3: the prompt before turn {turn} is held out, and tokens.assistant_turns: all would"
        with pytest.raises(UserError, match=words):
            list(not_held_out([CONVERSATION], heldout))
    assert list(not_held_out([CONVERSATION], {digest("be brief."), digest("say cloud.")})) == [CONVERSATION]


def test_context_goes_through_the_token_file(tokenizers, tmp_path):
    rows, _ = encode_rows([ROWS[0], CONVERSATION], "sft", tokenizers["smollm2"], settings(assistant_turns="all"), "f")
    write_tokens(tmp_path / "a.parquet", token_tables(rows))
    assert list(read_tokens(tmp_path / "a.parquet")) == rows
