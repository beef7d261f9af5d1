"""Stored predictions are read only if they can be predictions, whatever is in the file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.api import Job
from harness.errors import CannotContinueError
from harness.results.predictions import read_predictions
from harness.results.store import JobFolder

LOGITS = np.eye(4, 3, dtype=np.float32)
LABELS = np.arange(4) % 3


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(Job("tiny-1.0", "tiny", "dots", 0), tmp_path)


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (LOGITS, LABELS - 1, "labels from -1 to 1, expected 0 to 2"),
        (LOGITS, LABELS + 1, "labels from 1 to 3, expected 0 to 2"),
        (LOGITS, LABELS.astype(float), "other values than numbers, expected float logits and whole labels"),
        (LOGITS.astype(complex), LABELS, "other values than numbers"),
        (LOGITS.astype(str), LABELS, "other values than numbers"),
        (LOGITS.astype(bool), LABELS, "other values than numbers"),
        (np.where(LOGITS > 0, np.nan, LOGITS), LABELS, "logits that are not finite"),
        (LOGITS[:3], LABELS, r"logits \(3, 3\) and labels \(4,\)"),
        (LOGITS[:, 0], LABELS, r"logits \(4,\) and labels"),
        (LOGITS[:, :0], LABELS, r"logits \(4, 0\)"),
        (np.array(LOGITS, dtype=object), LABELS, "is damaged"),
    ],
)
def test_arrays_that_are_no_predictions_are_named(logits: Any, labels: Any, said: str, folder: JobFolder) -> None:
    np.savez_compressed(folder.predictions, logits=logits, labels=labels)
    with pytest.raises(CannotContinueError, match=said):
        read_predictions(folder)


def test_any_whole_labels_and_float_logits_are_read(folder: JobFolder) -> None:
    np.savez_compressed(folder.predictions, logits=LOGITS.astype(np.float64), labels=LABELS.astype(np.uint8))
    logits, labels = read_predictions(folder)
    assert (str(logits.dtype), str(labels.dtype)) == ("float32", "int64")
    assert np.array_equal(logits, LOGITS)
    assert np.array_equal(labels, LABELS)


def test_every_damaged_byte_is_an_error_or_changes_nothing(folder: JobFolder) -> None:
    np.savez_compressed(folder.predictions, logits=LOGITS, labels=LABELS)
    content = folder.predictions.read_bytes()
    for at in range(0, len(content), 3):
        folder.predictions.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with contextlib.suppress(CannotContinueError):
            logits, labels = read_predictions(folder)
            assert np.array_equal(logits, LOGITS)
            assert np.array_equal(labels, LABELS)
