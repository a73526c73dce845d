"""Tasks of lm-evaluation-harness: what it asks is taken down, and answers are handed back for it to grade.

Only this module runs the harness (0.4.13), in the `grade` environment, which holds no torch. Nothing is downloaded:
data come from local files, or from the cache of the Hugging Face libraries. Code of a data set is never run.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1", "LMEVAL_LOG_LEVEL": "ERROR"}

import datasets
import lm_eval.evaluator
import lm_eval.tasks
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind

from arms.data.requests import item_id
from arms.data.steady import steady_checkers
from arms.job.files import UserError, canonical_json, sha256_bytes

FILES = ("json", "csv", "parquet", "arrow", "text")  # what `datasets` calls local files
CONVERSATION = "\x00conversation\x00"  # begins a context that is a conversation, as JSON
DEFAULT_TOKENS = 256  # of an answer where a task does not say; as of the harness's own `--model hf`
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names of one setting; first wins
SAMPLING = {"do_sample", "temperature", "top_p", "top_k", "min_p"}  # without effect on greedy answers


class Asked(LM):
    """A model for the harness: it takes down every request, and gives answers that were made before.

    answers: of all requests, in the order in which they come: a text, or (log-probability in nats, whether each token
    was the most likely one). Without them each answer is empty, or unlikely.
    """

    tokenizer_name = ""

    def __init__(self, answers: list | None = None) -> None:
        super().__init__()
        self.answers, self.requests = answers, []  # type: ignore[var-annotated]

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Answers in words."""
        return self._answered(requests, "")

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probabilities of continuations."""
        return self._answered(requests, (-1.0, False))

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, which is no request of ours."""
        raise UserError(
            f"task {requests[0].task_name} asks for log-probabilities of texts (loglikelihood_rolling), which have "
            "no value for each item; leave it out"
        )

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """The conversation itself: the model's tokenizer, which renders it, is elsewhere."""
        return CONVERSATION + canonical_json({"messages": chat_history, "continued": not add_generation_prompt})

    def _answered(self, requests: list, empty: object) -> list:
        start = len(self.requests)
        self.requests += [as_row(request) for request in requests]
        return [empty] * len(requests) if self.answers is None else self.answers[start : len(self.requests)]


def as_row(request: Any) -> dict:
    """What a request asks, as a row of requests.parquet (arms/data/requests.py)."""
    context, second = request.args
    conversation = context.startswith(CONVERSATION)
    row = {
        "task": request.task_name,
        "doc_id": request.doc_id,
        "idx": request.idx,
        "conversation": conversation,
        "context": context.removeprefix(CONVERSATION),
        "continuation": None,
        "until": None,
        "max_new_tokens": None,
    }
    if conversation:
        try:
            json.loads(row["context"])
        except ValueError:
            raise UserError(
                f"task {request.task_name} puts text around its conversation; set chat_template to false"
            ) from None
    if isinstance(second, str):
        return {**row, "continuation": second}
    return {**row, **generation(second, request.task_name)}


def generation(arguments: dict, task: str) -> dict:
    """Where an answer ends: `until`, texts before which it is cut, and max_new_tokens. UserError unless greedy."""
    unknown = sorted(set(arguments) - {"until", *LENGTHS} - SAMPLING)
    if unknown:
        raise UserError(f"task {task}: generation_kwargs has {unknown[0]}, which changes greedy answers; leave it out")
    sampled = arguments.get("do_sample")
    if sampled or (sampled is None and arguments.get("temperature")):
        raise UserError(
            f"task {task} samples its answers (generation_kwargs); all arms answer greedily: set do_sample to false in "
            "a YAML file of your own that includes this one"
        )
    until, lengths = arguments.get("until") or [], [arguments[name] for name in LENGTHS if arguments.get(name)]
    until = [until] if isinstance(until, str) else until
    return {"until": [text for text in until if text], "max_new_tokens": int((lengths or [DEFAULT_TOKENS])[0])}


def run(settings: dict, files: list[str], lm: Asked) -> dict:
    """The harness's own results of a task, every item among them. UserError for what the user can mend.

    settings: name, task, few_shot, chat_template, system_prompt, limit, revision (study.tasks.Tasks.settings). files:
    of a task of the user's own, its YAML first.
    """
    revision = settings.get("revision")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    steady_checkers()
    try:
        with tempfile.TemporaryDirectory() as fresh, patch.object(datasets, "load_dataset", loader(fresh, revision)):
            return lm_eval.evaluator.simple_evaluate(
                model=lm,
                tasks=load(settings, files),
                num_fewshot=settings["few_shot"],
                limit=settings["limit"],
                apply_chat_template=settings["chat_template"],
                system_instruction=settings["system_prompt"],
                bootstrap_iters=0,
            )
    except UserError as error:
        whole = str(error).startswith("evaluation.tasks.")
        raise UserError(str(error) if whole else f"evaluation.tasks.{settings['name']}: {error}") from None
    except Exception as error:
        raise UserError(f"evaluation.tasks.{settings['name']}: {in_words(error)}") from error


def loader(fresh: str, revision: str | None) -> Callable:
    """`datasets.load_dataset` that runs no code of a data set, and reads local files anew, into the folder `fresh`.

    The cache knows a local file by its time, which says nothing about its content. revision: commit that a data set of
    the hub has to be of, which `datasets` 2.19.2 does not look at without the network.
    """
    original = datasets.load_dataset

    def load_dataset(path: str, *args: Any, trust_remote_code: bool = False, **options: Any) -> Any:
        local = path in FILES or os.path.isdir(path)
        place = {"cache_dir": fresh} if path in FILES else {}
        found = original(path, *args, **{**options, **place, "trust_remote_code": False})
        if revision and not local:
            check_revision(path, found, revision)
        return found

    return load_dataset


def check_revision(path: str, found: Any, revision: str) -> None:
    """UserError for a data set in the cache that is of another commit; its folder there is named by its own."""
    splits = found.values() if isinstance(found, dict) else [found]
    commits = {Path(file["filename"]).parent.name for split in splits for file in split.cache_files}
    if commits != {revision}:
        raise UserError(
            f"the cache has {path} of {', '.join(sorted(commits)) or 'an unknown revision'}, not of {revision}; where "
            f"the network is, load it with revision='{revision}' (`datasets.load_dataset` of .envs/grade, same HF_HOME)"
        )


def load(settings: dict, files: list[str]) -> list:
    """The task, or the tasks of a group, with their data."""
    name, few_shot = settings["name"], settings["few_shot"]
    own = Path(files[0]).resolve() if files else None
    manager = index(settings["task"], own)
    asked = settings["task"] if own is None else name_in(manager, own)
    if not files and asked not in manager.all_tasks:
        close = difflib.get_close_matches(asked, manager.all_tasks, n=3)
        near = f"did you mean {', '.join(close)}?" if close else "`lm_eval ls tasks` lists all"
        version = lm_eval.__version__
        raise UserError(f"evaluation.tasks.{name}: lm-evaluation-harness {version} has no task {asked!r}; {near}")
    tasks = list(manager.load([asked])["tasks"].values())
    for task in tasks:
        if few_shot and task.get_config("num_fewshot") == 0:
            raise UserError(
                f"evaluation.tasks.{name}.few_shot: {task.config.task} says num_fewshot: 0, which the harness never "
                "changes; leave few_shot out"
            )
    return tasks


def index(name: str, own: Path | None) -> TaskManager:
    """The tasks that may be meant: those beside the file of one, for finding all takes six seconds.

    A group's tasks may be any; so are those that a mistaken name is near.
    """
    folder = own.parent if own else folder_of(name)
    if folder:
        beside = TaskManager(include_path=str(folder), include_defaults=False)
        entry = beside.task_index.get(name_in(beside, own) if own else name)
        if entry and entry.kind in (Kind.TASK, Kind.PY_TASK):
            return beside
    return TaskManager(include_path=str(own.parent) if own else None)


def folder_of(name: str) -> Path | None:
    """Where the harness's file of a task is, by a line of its text."""
    line = re.compile(rb"^task:\s*['\"]?" + re.escape(name.encode()) + rb"['\"]?\s*$", re.MULTILINE)
    found = sorted(Path(lm_eval.tasks.__path__[0]).glob("**/*.yaml"), key=Path.as_posix)  # the first one counts
    return next((path.parent for path in found if line.search(path.read_bytes())), None)


def name_in(manager: TaskManager, own: Path) -> str:
    """What the harness calls the task or group of a file; by its path alone it takes no group."""
    entries = manager.task_index.items()
    known = (name for name, entry in entries if entry.yaml_path and entry.yaml_path.name == own.name)
    return next((name for name in known if manager.task_index[name].yaml_path == own), str(own))


def in_words(error: Exception) -> str:
    """What stopped the harness, with the cure where it is known."""
    text = " ".join(str(error).split())
    offline = isinstance(error, ConnectionError | FileNotFoundError) or "find cache" in text or "ffline" in text
    if offline:
        return (
            f"its data are not here, and no job uses the network ({text}); load the data set once where there is one "
            "(`datasets.load_dataset` of .envs/grade, with the same HF_HOME), or give local files in a YAML file"
        )
    if isinstance(error, KeyError):
        return f"its data have no split or column {text}; correct the task's YAML, or load the data set whole"
    if "marked as unsafe" in text:
        return "it runs code that the model writes, which is not offered; leave it out"
    return f"the harness stopped ({type(error).__name__}: {text[:300]}); correct the task, or leave it out"


def facts(results: dict) -> dict:
    """What of the harness and the task made the requests: versions and checksums, for the manifest."""
    return {
        "lm_eval": lm_eval.__version__,
        "tasks": {
            name: {
                "version": str(results["versions"][name]),
                "few_shot": results["n-shot"][name],
                "config_sha256": sha256_bytes(canonical_json(without_place(results["configs"][name])).encode()),
                "items": len({sample["doc_id"] for sample in samples}),
                "items_sha256": sha256_bytes(canonical_json([sample["doc_hash"] for sample in samples]).encode()),
            }
            for name, samples in sorted(results["samples"].items())
        },
    }


def without_place(config: dict) -> dict:
    """A task's configuration without where it lies."""
    metadata = {name: value for name, value in (config.get("metadata") or {}).items() if name != "config_source"}
    return json.loads(json.dumps({**config, "metadata": metadata}, default=str))


def values(results: dict, name: str, metric: str) -> Iterator[tuple[str, int, int | None, float]]:
    """(subtask, doc_id, part, value) of each item by one metric, named <metric> or <metric>.<filter>.

    Some metrics grade the parts of an item, such as each instruction of a prompt of IFEval; else part is None.
    name: of the task in the configuration. Raises UserError where the metric is not the task's, or no number.
    """
    wanted, _, chosen = metric.partition(".")
    for task, samples in sorted(results["samples"].items()):
        found = {sample["filter"] for sample in samples if wanted in sample["metrics"]}
        whole = f"evaluation.tasks.{name}.metric: {task}"
        if not found:
            known = sorted({one for sample in samples for one in sample["metrics"]})
            raise UserError(f"{whole} is not graded by {wanted!r}; choose from {', '.join(known)}")
        if chosen not in found and (chosen or len(found) > 1):
            choices = ", ".join(f"{wanted}.{one}" for one in sorted(found))
            raise UserError(f"{whole} grades {wanted} through filters: {metric!r} names none; choose from {choices}")
        for sample in samples:
            if chosen in ("", sample["filter"]) and wanted in sample["metrics"]:
                doc_id, value = sample["doc_id"], sample[wanted]
                where = f"{whole}, {wanted} of item {doc_id}"
                in_parts = isinstance(value, list) and all(isinstance(one, bool) for one in value)
                parts = enumerate(value) if in_parts else [(None, value)]
                yield from ((task, doc_id, part, number(one, where)) for part, one in parts)


def part_id(item: str, part: int | None) -> str:
    """The id of a part of an item among the held-out rows, of which the first is 0: ifeval/12#0."""
    return item if part is None else f"{item}#{part}"


def listed(name: str, task: str, sample: dict, part: int | None = None) -> dict:
    """An item, or a part of it, as a held-out row: its prompt is all its data, so that these are one cluster."""
    prompt = json.dumps(sample["doc"], sort_keys=True, ensure_ascii=False, default=str)
    row = {"id": part_id(item_id(name, task, sample["doc_id"]), part), "prompt": prompt, "cluster_id": None}
    return {**row, "category": family(sample["doc"], part) or task}


def family(doc: Any, part: int | None) -> str | None:
    """The family of an instruction of IFEval, or of all instructions of a prompt; None for other tasks.

    >>> prompt = {"instruction_id_list": ["keywords:existence", "startend:quotation"]}
    >>> family(prompt, 1), family(prompt, None), family({"question": "Who?"}, None)
    ('startend', 'several families', None)
    """
    ids = doc.get("instruction_id_list") if isinstance(doc, dict) else None
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        return None
    families = {one.partition(":")[0] for one in (ids if part is None else ids[part : part + 1])}
    return next(iter(families), None) if len(families) < 2 else "several families"


def check_direction(results: dict, settings: dict, metric: str) -> None:
    """UserError where the configuration and the harness differ in whether more of a metric is better."""
    wanted = metric.partition(".")[0]
    for task in results["samples"]:
        higher = results["higher_is_better"][task].get(wanted)
        if higher is not None and higher != settings["higher_is_better"]:
            raise UserError(
                f"evaluation.tasks.{settings['name']}.higher_is_better: the harness says {str(higher).lower()} of "
                f"{wanted} in {task}; set it so"
            )


def number(value: Any, where: str) -> float:
    """A value of one item; UserError where the harness computes the metric from all items together."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"{where} is {str(value)[:40]}, no number: the harness computes this metric from all items together, and "
            "the statistics compare item by item; choose another metric"
        ) from None
