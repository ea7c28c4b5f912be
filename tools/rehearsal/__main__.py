"""Rehearse everything at paper scale; see the package. All of it is left in ./rehearsal.

`make rehearse`, or `python -m tools.rehearsal [sweep ...]`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptst.engine.vllm import Vllm
from ptst.errors import ConfigError, PtstError
from ptst.paths import CONF, ROOT
from ptst.progress import say
from tools.rehearsal.api import ApiServer

SAID = ("model", "dataset", "template", "evaluation", "defence")
"""Groups of conf/ whose choices a composed cell names.

Every choice of finetune, judge, engine and analysis has a run of its own.
"""
NEEDS_CUDA = {"qlora"}
MICRO_ONLY = {"hazards", "lookalikes", "howto", "innodata_micro_hazards", "innodata_micro_howto"}
"""Evaluations whose queries exist in the micro world alone. Everybody's first run uses them."""
SMALL = (
    "scale=paper",
    "scale.max_new_tokens=8",
    *(f"scale.train_rows.{name}=8" for name in ("chatdoctor", "openorca", "orca_math")),
    "scale.test_rows.chatdoctor=8",
    "tracking=none",
    "engine.device=cpu",
    "finetune.device_batch_size=2",
    "paths.store=store",
    "paths.reports=reports",
)
"""Overrides of every run: the sizes, and where results go."""
ONE_EACH = (
    "template@train_template=chat_vanilla",
    "template@test_template=chat_llama",
    "finetune.max_steps=2",
)
ONE_EVALUATION = ("evaluation=[directharm4]", "~evaluation@task")
SMALLER = {
    name: (*ONE_EACH, *ONE_EVALUATION) for name in ("core", "defences", "defences_full", "guards")
}
"""More of them, for sweeps with many fine-tunings: a cell of each defence."""
FEW = 8
"""Rows that a defence draws in the place of hundreds: a made-up set has no more."""


def main(arguments: Sequence[str]) -> int:
    """Rehearse.

    Returns:
        0; 1 if anything failed.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.rehearsal", description=__doc__)
    shipped = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
    parser.add_argument(
        "sweeps", nargs="*", help=f"some of: {', '.join(shipped)}; default: everything"
    )
    parser.add_argument(
        "--override", action="append", default=[], help="an override for every sweep"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("rehearsal"), help="where all of it goes"
    )
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.sweeps) - set(shipped)):
        parser.error(f"there is no sweep {unknown[0]}; the sweeps are: {', '.join(shipped)}.")
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    server = ApiServer(answer=_answer, key="rehearsal")
    url = server.start()
    try:
        environment = _stage(folder, url)
        runs = {
            name: [f"+sweeps={name}", *SMALLER.get(name, ()), *asked.override]
            for name in asked.sweeps or shipped
        }
        failed = [
            name for name, words in runs.items() if not _run(name, words, folder, environment)
        ]
        if not asked.sweeps:
            others = _others(_used(folder))
            failed += [n for n, words in others if not _run(n, words, folder, environment)]
            if left := _lacking(_used(folder)):
                say(f"no run used these files of conf/: {left}")
                failed.append("coverage")
    finally:
        server.stop()
    say(
        f"{len(failed)} failed: {', '.join(failed)}"
        if failed
        else f"all came through; see {folder}/reports"
    )
    return 1 if failed else 0


def _stage(folder: Path, url: str) -> dict[str, str]:
    """Make the copy of the checkout; the environment of commands in it."""
    copy = folder / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    for part in ("src", "tools", "conf", "sweeps"):
        shutil.copytree(
            ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "local")
        )
    for file in [*(copy / "conf").rglob("*.yaml"), *(copy / "src").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        own = text.replace("https://api.openai.com/v1", url)
        if file.suffix == ".yaml":
            own = re.sub(r"(?m)^ *sha256: .*\n", "", own)
        if file.parent.parent.name == "defence":  # rows/ and recipe/
            own = re.sub(r"\bn: \d+", f"n: {FEW}", own)
        if own != text:
            file.write_text(own, encoding="utf-8")
    return os.environ | {
        "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}",
        "HF_HOME": str(folder / "hub"),
        "XDG_CACHE_HOME": str(folder / "files"),
        "HF_HUB_OFFLINE": "1",
        "OPENAI_API_KEY": "rehearsal",
    }


def _run(name: str, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> bool:
    """Rehearse one sweep; whether all of its cells are done and its report is there."""
    started = time.monotonic()
    say(f"{name}: ptst -m {' '.join(words)}")
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as file:

        def ran(*command: str) -> int:
            whole = [sys.executable, *command]
            done = subprocess.run(whole, cwd=folder, env=environment, stdout=file, stderr=file)
            return done.returncode

        sweep = [*words, *SMALL]
        done = (
            ran("-m", "tools.rehearsal.cast", name, *sweep) == 0
            and ran("-m", "ptst.cli", "-m", *sweep) == 0
        )
    seconds = time.monotonic() - started
    if not done:
        last = log.read_text().strip().splitlines()[-12:]
        say("\n".join([f"{name}: FAILED after {seconds:.0f} s; see {log}", *last]))
        return False
    say(f"{name}: {seconds:.0f} s")
    return True


def _answer(request: dict[str, Any]) -> str:
    """What the stand-in says: a rubric's form where one is asked for, else a number."""
    text = json.dumps(request["messages"])
    number = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
    if "#thescore" in text:
        return f"#thereason: rehearsal\n#thescore: {number % 5 + 1}"
    return f"The answer is: {number % 100}\n#### {number % 100}"


def _used(folder: Path) -> set[str]:
    """ "<group>/<name>" of what rehearsed cells were composed of, as far as cells say it."""
    files = (folder / "cast").glob("*.json")
    return {item for file in files for item in json.loads(file.read_text(encoding="utf-8"))}


def _lacking(used: set[str]) -> dict[str, list[str]]:
    """What is shipped and was not used, by group."""
    aside = {f"evaluation/{name}" for name in MICRO_ONLY}
    ours = [path.stem for path in (CONF / "model").glob("*.yaml")]
    aside |= {f"model/{name}" for name in ours if name.startswith(("micro", "canned"))}
    names = {g: sorted(p.stem for p in (CONF / g).glob("*.yaml")) for g in SAID}
    found = {g: [n for n in own if f"{g}/{n}" not in used | aside] for g, own in names.items()}
    return {group: own for group, own in found.items() if own}


def _not_installed() -> set[str]:
    """Engines that need an environment of their own, where there is none."""
    try:
        found = Vllm().installed
    except ConfigError as error:
        say(f"engines, without vllm: {error}")
        return {"vllm"}
    say(f"engines, with vLLM {found.version} of {found.python}")
    return set()


def _others(used: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Runs for what no sweep uses, and for every fine-tuning and judge."""
    lacking = _lacking(used)
    if names := lacking.get("evaluation"):
        yield "evaluations", [f"evaluation=[{','.join(names)}]"]
    models = lacking.get("model", [])
    fused = [name for name in models if name.startswith("phi")]  # no q_proj, no v_proj
    if names := [name for name in models if name not in fused]:
        yield "models", [f"model={','.join(names)}", "finetune=lora_gsm8k"]
    if fused:
        own = "finetune.lora.target_modules=[qkv_proj]"
        yield "models-fused", [f"model={','.join(fused)}", "finetune=lora_gsm8k", own]
    if names := lacking.get("dataset"):
        yield "datasets", [f"dataset={','.join(names)}", "finetune=lora_gsm8k"]
    if names := lacking.get("template"):
        each = ",".join(names)
        yield "templates", [f"template@train_template={each}", f"template@test_template={each}"]
    recipes = {path.stem for path in (CONF / "finetune").glob("*.yaml")}
    at_api = sorted(name for name in recipes if name.startswith("openai"))
    here = sorted(recipes - {*at_api, *NEEDS_CUDA})
    yield "finetunings", [f"finetune={','.join(here)}"]
    yield "finetunings-at-api", ["model=gpt35_turbo_0613", f"finetune={','.join(at_api)}"]
    if names := lacking.get("defence"):
        yield "defences-others", [f"defence={','.join(f'[{name}]' for name in names)}", *ONE_EACH]
    names = sorted(path.stem for path in (CONF / "analysis").glob("*.yaml"))
    yield "analyses", [f"analysis=[{','.join(names)}]", *ONE_EACH]
    engines = {path.stem for path in (CONF / "engine").glob("*.yaml")} - _not_installed()
    yield "engines", [f"engine={','.join(sorted(engines))}", "finetune=none"]
    judges = sorted(path.stem for path in (CONF / "judge").glob("*.yaml") if path.stem != "micro")
    yield "judges", [f"judge={','.join(judges)}", "evaluation=[directharm4]"]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PtstError as error:
        say(str(error))
        sys.exit(2)
