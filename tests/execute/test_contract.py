"""The import-linter contract of executors names every module that a third party's executor could not use."""

from __future__ import annotations

import tomllib

from tests.support import ROOT

ALLOWED = {"harness.api"}
OURS = {"harness.execute.slurm", "harness.execute.ray"}


def modules_in(package: str) -> set[str]:
    folder = ROOT.joinpath(*package.split("."))
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    return {f"{package}.{name}" for name in files | folders}


def test_the_contract_of_executors_forbids_all_but_the_api() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {one["name"]: one for one in settings["tool"]["importlinter"]["contracts"]}
    contract = contracts["Executors know the API alone"]
    assert set(contract["source_modules"]) == OURS
    expected = (modules_in("harness") - {"harness.execute"}) | (modules_in("harness.execute") - OURS)
    assert expected - set(contract["forbidden_modules"]) == ALLOWED
