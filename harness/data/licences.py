"""Which data sets' terms the user has accepted, remembered in the data folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from harness.api import DatasetSpec
from harness.errors import LicenceError
from harness.files import write_text_atomically, writing_to


def _file(root: Path) -> Path:
    return root / "licences.json"


def _read(root: Path) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(_file(root).read_bytes())
    except (OSError, ValueError):
        return {}  # an unreadable record costs a question, nothing else
    return content if isinstance(content, dict) else {}


def is_accepted(spec: DatasetSpec, root: Path) -> bool:
    """Whether these very terms were accepted, or need not be."""
    record = _read(root).get(spec.name)
    return not spec.accept_licence or (isinstance(record, dict) and record.get("licence") == spec.licence)


def require_licence(spec: DatasetSpec, root: Path, *, accept: bool) -> None:
    """Record that the user accepts a data set's terms, or say what they are.

    Raises:
        LicenceError: they must be accepted and were not.
    """
    if is_accepted(spec, root):
        return
    if not accept:
        raise LicenceError(
            f"{spec.title} may be used under these terms: {spec.licence}. "
            f"{f'See {spec.homepage}. ' if spec.homepage else ''}"
            f"If you accept them, say: harness prepare {spec.name} --accept-licence"
        )
    records = _read(root)
    records[spec.name] = {"licence": spec.licence, "accepted": datetime.now(UTC).isoformat(timespec="seconds")}
    with writing_to(root):
        root.mkdir(parents=True, exist_ok=True)
    write_text_atomically(_file(root), json.dumps(records, indent=2) + "\n")
