"""Rule export_crate: the study as a Workflow Run RO-Crate, one zip that other people's tools can read.

    python scripts/export_crate.py --job '{"rule": "export_crate", "wildcards": {}, "settings": {...}}' \
        --report results/demo/report.html --manifests results/demo/report.manifest.json ... --engine 9.27.1 \
        --crate demo.zip --manifest demo.manifest.json

The zip holds the workflow, its configuration, the data, every target and every manifest; ro-crate-metadata.json says
which job made what from what, with which settings and versions (profile Provenance Run Crate 0.5,
https://w3id.org/ro/wfrun/provenance/0.5). Weights and files of more than 10 MB are described with their sha256, not
copied. Every file is hashed again, and the zip is checked by the roc-validator before it takes its place.
"""

from __future__ import annotations

import datetime
import io
import json
import logging
import tempfile
from pathlib import Path

from arms.job.files import UserError, atomic_path, canonical_json, exit_with_message, sha256_bytes, sha256_file
from arms.job.manifest import Job, flat, read_manifest
from arms.job.program import JobParser

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = (
    "rules/*.smk", "scripts/**/*.py", "scripts/**/*.json", "scripts/**/*.toml", "scripts/*.j2", "tools/**/*.py",
    "envs/*.yaml", "config/schema.yaml", "config/README.md", "config/captions/*", "profiles/default/config.yaml",
    "pyproject.toml", "uv.lock", "Makefile", "README.md", "LICENSE",
)  # fmt: skip
LARGEST = 10_000_000  # bytes of a file that is copied
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate 0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate 0.5",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate 0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate 1.0",
}
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
TERMS = "https://w3id.org/ro/terms/workflow-run#"
FORMATS = {
    ".json": "application/json", ".jsonl": "application/jsonl", ".html": "text/html", ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet", ".svg": "image/svg+xml", ".png": "image/png",
    ".yaml": "application/yaml", ".py": "text/x-python", ".md": "text/markdown", ".zip": "application/zip",
    ".safetensors": "application/octet-stream",
}  # fmt: skip


def main() -> None:
    """Describe workflow, files and jobs; write; validate; only then put the zip in its place."""
    parser = JobParser(__doc__)
    parser.input("report", recorded=False, help="the page, made last: with it the study is whole")
    parser.input("manifests", nargs="+", help="those of all jobs of the study")
    parser.add_argument("--engine", required=True, metavar="VERSION", help="version of Snakemake that ran the study")
    parser.output("crate", help="a zip")
    args = parser.parse_args()
    job = Job(args)

    manifests = {path: read_manifest(path) for path in args.manifests}
    study = StudyCrate(job.settings, manifests, args.engine)
    with atomic_path(args.crate) as temporary:
        study.crate.write_zip(temporary)
        problems = validate(temporary)
        if problems:
            raise UserError(f"{args.crate}: not a valid Provenance Run Crate, not written: {'; '.join(problems[:5])}")
    size = Path(args.crate).stat().st_size / 1e6
    job.say(f"{args.crate}: {len(manifests)} jobs, {len(study.files)} files, {size:.1f} MB; valid")
    job.finish(
        files=len(study.files),
        not_copied=sorted(path for path, entity in study.files.items() if entity.id.startswith("#")),
    )


class StudyCrate:
    """The crate of a study: `crate`, and `files`, path -> its entity.

    config: the study's whole configuration. manifests: path -> manifest, of all jobs. engine: Snakemake's version.
    """

    def __init__(self, config: dict, manifests: dict[str, dict], engine: str) -> None:
        from rocrate.rocrate import ROCrate

        self.crate = ROCrate(version="1.1")
        self.crate.metadata.extra_terms = {name: TERMS + name for name in ("sha256", "resourceUsage")}
        self.config, self.files = config, {}
        self.programs = {f"scripts/{manifest['rule']}.py" for manifest in manifests.values()}
        self.ended = max(end_time(manifest) for manifest in manifests.values())
        self.add_heading()
        self.add_workflow(engine)
        tools = self.add_tools(manifests)
        actions = [self.add_action(path, manifest, tools) for path, manifest in manifests.items()]
        self.add_run(manifests, actions, tools, engine)

    def add_heading(self) -> None:
        """The crate as a whole, and the profiles that it follows."""
        self.crate.name = f"sft-vs-dpo: study {self.config['study']}"
        self.crate.description = (
            "Base, SFT, SFT then DPO, and DPO alone, of one base model, compared with paired statistics: "
            "the workflow, its configuration, data, results, and the provenance of every file."
        )
        self.crate.datePublished = datetime.datetime.fromisoformat(self.ended)
        self.crate.root_dataset["conformsTo"] = [
            self.entity(url, "CreativeWork", name=name, version=name.split()[-1]) for url, name in PROFILES.items()
        ]
        self.crate.root_dataset["license"] = self.entity(
            "#licence",
            "CreativeWork",
            name="Licences",
            description="The workflow: Apache-2.0, see LICENSE. Data, base model and results: as their owners say.",
        )

    def add_workflow(self, engine: str) -> None:
        """Snakefile as the main entity, the files it consists of, and the configuration."""
        self.workflow = self.crate.add_workflow(
            ROOT / "Snakefile",
            "Snakefile",
            main=True,
            lang="snakemake",
            lang_version=engine,
            properties={"@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]},
        )
        self.workflow["name"] = "sft-vs-dpo"
        self.workflow["version"] = sha256_bytes(canonical_json(source_digests()).encode())[:16]
        self.workflow["license"] = self.entity(
            "https://spdx.org/licenses/Apache-2.0", "CreativeWork", name="Apache License 2.0"
        )
        for name, digest in source_digests().items():
            self.add_file(name, digest, ROOT / name)
        self.files["README.md"]["about"] = self.crate.root_dataset
        text = json.dumps(self.config, indent=1, sort_keys=True, ensure_ascii=False).encode()
        properties = {"name": "configuration, defaults filled in", "encodingFormat": "application/json"}
        self.configuration = self.crate.add_file(io.BytesIO(text), "config.json", properties=properties)

    def add_tools(self, manifests: dict[str, dict]) -> dict:
        """Rule -> its program, with the packages found when it ran."""
        found = {}
        for manifest in manifests.values():
            tool = found.setdefault(manifest["rule"], self.files[f"scripts/{manifest['rule']}.py"])
            tool["version"] = manifest["code"]
            tool["softwareRequirements"] = [self.package(*found) for found in manifest["versions"].items()]
        self.workflow["hasPart"] = list(found.values())
        return found

    def add_action(self, path: str, manifest: dict, tools: dict):
        """The action of one job: what it read and made, its settings, when and where; its manifest is about it."""
        name = " ".join([manifest["rule"], *manifest["wildcards"].values()])
        machine = manifest["machine"]
        where = ", ".join(str(machine[key]) for key in ("device", "cpu_capability", "system") if machine[key])
        settings = {**flat(manifest["wildcards"]), **flat(manifest["settings"])}
        action = self.entity(
            f"#job/{path}",
            "CreateAction",
            name=name,
            description=f"Rule {manifest['rule']} on {where}; git {manifest['git']['sha'] or 'unknown'}"
            + (" with uncommitted changes" if manifest["git"]["dirty"] else ""),
            instrument=tools[manifest["rule"]],
            object=[
                *(self.add_file(entry["path"], entry["sha256"]) for entry in manifest["inputs"].values()),
                *(self.setting(key, value) for key, value in settings.items()),
            ],
            result=[self.add_file(entry["path"], entry["sha256"]) for entry in manifest["outputs"].values()],
            startTime=manifest["started"],
            endTime=end_time(manifest),
            actionStatus="http://schema.org/CompletedActionStatus",
            resourceUsage=self.entity(
                f"#job/{path}/memory",
                "PropertyValue",
                name="peak resident memory",
                propertyID="peak_rss_mib",
                value=str(manifest["peak_rss_mib"]),
                unitCode="https://qudt.org/vocab/unit/MebiBYTE",
            ),
        )
        self.add_file(path, sha256_file(path))["about"] = action
        return action

    def add_run(self, manifests: dict[str, dict], actions: list, tools: dict, engine: str) -> None:
        """The run of the whole workflow, and how the engine organised the jobs: one step a rule, one control a job."""
        report = next(manifest for manifest in manifests.values() if manifest["rule"] == "report")
        results = [self.files[entry["path"]] for entry in report["outputs"].values()]
        checks = [manifest for manifest in manifests.values() if manifest["rule"] == "check_data"]
        data = [self.files[entry["path"]] for manifest in checks for entry in manifest["inputs"].values()]
        run = self.entity(
            "#run",
            "CreateAction",
            name=f"Run of study {self.config['study']}",
            description=f"{len(actions)} jobs of {len(tools)} rules",
            instrument=self.workflow,
            object=[self.configuration, *data],
            result=results,
            startTime=min(manifest["started"] for manifest in manifests.values()),
            endTime=self.ended,
            actionStatus="http://schema.org/CompletedActionStatus",
        )
        self.workflow["input"] = [self.parameter("input", entity) for entity in [self.configuration, *data]]
        self.workflow["output"] = [self.parameter("output", entity) for entity in results]
        steps = {
            rule: self.entity(f"Snakefile#{rule}", "HowToStep", name=rule, position=str(number), workExample=tool)
            for number, (rule, tool) in enumerate(tools.items(), start=1)
        }
        self.workflow["step"] = list(steps.values())
        controls = [
            self.entity(
                f"#control/{path}",
                "ControlAction",
                name=f"Snakemake ran {action['name']}",
                instrument=steps[manifest["rule"]],
                object=action,
            )
            for (path, manifest), action in zip(manifests.items(), actions, strict=True)
        ]
        self.entity(
            "#engine-run",
            "OrganizeAction",
            name="Snakemake's run",
            instrument=self.package("snakemake", engine),
            object=controls,
            result=run,
        )
        self.crate.root_dataset["mentions"] = [run, *actions]

    def add_file(self, path: str, digest: str, source: Path | None = None):
        """The entity of a file or folder, copied unless it is large; UserError if its sha256 is not `digest`."""
        if path in self.files:
            return self.files[path]
        source = source or Path(path)
        if not source.exists() or sha256_file(source) != digest:
            raise UserError(f"{path}: missing or changed since it was made; `snakemake verify` tells more")
        properties = {"name": path, "sha256": digest, "contentSize": str(size_of(source))}
        properties["encodingFormat"] = FORMATS.get(source.suffix, "text/plain")
        if path in self.programs:
            properties["@type"] = ["File", "SoftwareSourceCode"]
        if source.is_dir() or source.suffix == ".safetensors" or source.stat().st_size > LARGEST:
            properties["description"] = "Not in this crate: too large. The sha256 tells whether you have the same."
            self.files[path] = self.entity(f"#{path}", "Dataset" if source.is_dir() else "File", **properties)
        else:
            place = path if not Path(path).is_absolute() else f"external/{digest[:8]}/{source.name}"
            self.files[path] = self.crate.add_file(source, place, properties=properties)
        return self.files[path]

    def setting(self, name: str, value: object):
        """One setting of a job, by its dotted name; jobs with equal settings share it."""
        text = value if isinstance(value, str) else json.dumps(value)
        key = sha256_bytes(text.encode())[:12]
        return self.entity(f"#setting/{name}/{key}", "PropertyValue", name=name, value=text)

    def package(self, name: str, version: str):
        """A package of the package index (or python itself), at the version found."""
        url = f"https://pypi.org/project/{name}/{version}/"
        if name == "python":
            url = f"https://www.python.org/downloads/release/python-{version.replace('.', '')}/"
        return self.entity(url, "SoftwareApplication", name=name, softwareVersion=version, url=url)

    def parameter(self, direction: str, entity):
        """The formal parameter of the workflow that a file of this run is an example of."""
        parameter = self.entity(
            f"#{direction}/{Path(entity['name']).name}" if entity is not self.configuration else "#input/configuration",
            "FormalParameter",
            name=entity["name"],
            additionalType="File",
            workExample=entity,
        )
        entity["exampleOfWork"] = parameter
        return parameter

    def entity(self, identifier: str, kind: str, **properties: object):
        """A contextual entity of type `kind`, made once."""
        from rocrate.model.contextentity import ContextEntity

        found = self.crate.dereference(identifier)
        if found is None:
            found = self.crate.add(ContextEntity(self.crate, identifier, properties={"@type": kind}))
            for name, value in properties.items():
                found[name] = value[0] if isinstance(value, list) and len(value) == 1 else value
        return found


def validate(path: str | Path) -> list[str]:
    """What a crate must do and does not, by the Provenance Run Crate profile; empty if it is valid.

    Needs no network: the JSON-LD context that the validator would fetch is the copy that the rocrate package ships.
    """
    import requests
    import rocrate
    from requests.adapters import HTTPAdapter
    from requests_cache import CachedSession
    from rocrate_validator import services
    from rocrate_validator.models import Severity, ValidationSettings
    from urllib3 import HTTPResponse

    logging.getLogger("rocrate_validator").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        crate, cache = Path(folder) / "crate.zip", Path(folder) / "contexts"
        crate.symlink_to(Path(path).absolute())  # the validator cannot read a crate whose path has a space
        context = (Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").open("rb")
        headers = {"Content-Type": "application/ld+json"}
        with context, CachedSession(str(cache), backend="sqlite", expire_after=-1) as session:
            request = requests.Request("GET", CONTEXT).prepare()
            raw = HTTPResponse(context, headers, status=200, preload_content=False, request_url=CONTEXT)
            session.cache.save_response(HTTPAdapter().build_response(request, raw))
        result = services.validate(
            ValidationSettings(
                rocrate_uri=str(crate),
                profile_identifier="provenance-run-crate",
                requirement_severity=Severity.REQUIRED,
                offline=True,
                cache_path=cache,
            )
        )
        return [f"{issue.check.identifier}: {issue.message}" for issue in result.get_issues()]


def source_digests() -> dict[str, str]:
    """Path -> sha256 of every file that the workflow consists of, but the Snakefile."""
    paths = sorted(path for pattern in WORKFLOW for path in ROOT.glob(pattern) if path.is_file())
    return {str(path.relative_to(ROOT)): sha256_file(path) for path in paths}


def end_time(manifest: dict) -> str:
    """ISO 8601, UTC, of the end of a job."""
    start = datetime.datetime.fromisoformat(manifest["started"])
    return (start + datetime.timedelta(seconds=manifest["wall_seconds"])).isoformat(timespec="seconds")


def size_of(path: Path) -> int:
    """Bytes of a file or of all files in a folder."""
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


if __name__ == "__main__":
    exit_with_message(main)
