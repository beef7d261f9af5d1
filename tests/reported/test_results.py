"""Faults around results: what metrics return, what is written and read again."""

from __future__ import annotations

import json
import time

from tests.reported.conftest import Bench
from tests.support import lines_of, wait_until

NAN_METRIC = """
from harness.api import MetricSpec, hookimpl

@hookimpl
def harness_metrics():  # an AUROC of a class that the test split lacks is undefined
    return [MetricSpec(name="auroc", unit="", higher_is_better=True, compute=lambda logits, labels: float("nan"))]
"""


def test_an_undefined_metric_leaves_a_readable_result(bench: Bench) -> None:
    bench.put("auroc", NAN_METRIC)
    ran = bench.harness("run", "okay", *bench.quick)
    assert ran.code == 0, ran.err
    assert bench.state("okay") == "done"


ODD_METRICS = """
from harness.api import MetricSpec, hookimpl

class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def raises(logits, labels):
    raise Odd()

def exits(logits, labels):
    raise SystemExit(7)

@hookimpl
def harness_metrics():
    import torch
    values = {"infinite": float("inf"), "text": "0.5", "truth": True, "nothing": None,
              "tensor": torch.tensor(0.25), "vector": torch.ones(2)}
    functions = {name: (lambda logits, labels, value=value: value) for name, value in values.items()}
    functions |= {"raises": raises, "exits": exits}
    return [MetricSpec(name=name, unit="", higher_is_better=True, compute=function)
            for name, function in functions.items()]
"""


def test_metrics_that_return_anything_or_raise_cost_no_training(bench: Bench) -> None:
    bench.put("odd", ODD_METRICS)
    ran = bench.harness("run", "okay", *bench.quick)
    assert ran.code == 0, ran.err
    result = bench.result("okay")
    assert result["metrics"]["tensor"] == 0.25
    undefined = {"infinite", "text", "truth", "nothing", "vector", "raises", "exits"}
    assert not undefined & set(result["metrics"])
    for name in undefined:
        assert any(f" {name}" in note for note in result["notes"]), name
    again = bench.harness("run", "okay", *bench.quick)
    assert "1 done; 0 carried out by this command" in again.err


IN_PLACE = """
from pathlib import Path
from harness.api import MetricSpec, TrackerSpec, hookimpl

def margin(logits, labels):
    right = logits.gather(1, labels[:, None])
    logits.scatter_(1, labels[:, None], -1e9)  # hides the right one, in the caller's tensor
    labels.zero_()
    return float((right[:, 0] - logits.max(1).values).mean())

class Greedy:
    def __init__(self, run):
        run.config.clear()
        run.tags.clear()
    def epoch_finished(self, record):
        object.__setattr__(record, "loss", 0.0)
    def run_finished(self, result):
        result.metrics.clear()
        result.notes.append("greedy")
    def run_failed(self, reason):
        pass
    def close(self):
        pass

class Modest(Greedy):
    def __init__(self, run):
        self.path = Path("seen-by-" + str(len(run.config) > 5 and len(run.tags) > 5))
    def epoch_finished(self, record):
        assert record.loss > 0
    def run_finished(self, result):
        assert "top1" in result.metrics and "greedy" not in result.notes
        self.path.touch()

@hookimpl
def harness_metrics():
    return [MetricSpec(name="margin", unit="", higher_is_better=True, compute=margin)]

@hookimpl
def harness_trackers():
    return [TrackerSpec(name="a_greedy", title="", open=Greedy), TrackerSpec(name="b_modest", title="", open=Modest)]

@hookimpl
def harness_epoch_finished(job, record):
    object.__setattr__(record, "loss", 0.0)

@hookimpl
def harness_run_finished(job, result):
    assert "top1" in result.metrics
    result.metrics["top1"] = 100.0
    object.__setattr__(job, "seed", 7)
"""


def test_plugins_that_work_in_place_change_nothing_of_a_run(bench: Bench) -> None:
    bench.harness("run", "okay", *bench.quick, "--runs", "before")
    bench.put("margin", IN_PLACE)
    ran = bench.harness("run", "okay", *bench.quick, "--track", "a_greedy", "--track", "b_modest")
    assert ran.code == 0, ran.err
    assert "raised" not in ran.err
    assert (bench.folder / "seen-by-True").exists()
    before, after = bench.result("okay", runs="before"), bench.result("okay")
    assert after["weights_sha256"] == before["weights_sha256"]
    margin = after["metrics"].pop("margin")
    assert abs(margin) < 1000
    assert after["metrics"] == before["metrics"]
    assert after["notes"] == before["notes"] == []
    losses = [
        [json.loads(line)["loss"] for line in lines_of(bench.cell("okay", runs=runs) / "history.jsonl")]
        for runs in ("before", "runs")
    ]
    assert losses[0] == losses[1]
    verified = bench.harness("verify", "runs", "--registry", "quick.toml", "--format", "json")
    assert {row["verdict"] for row in verified.rows if row["check"].startswith(("metric", "predictions"))} == {"ok"}


UNDEFINED_OWN = """
from harness.api import MetricSpec, hookimpl

@hookimpl
def harness_metrics():
    return [MetricSpec(name="own", unit="%", higher_is_better=True, compute=lambda logits, labels: VALUE)]
"""


def test_an_undefined_metric_of_the_protocol_fails_the_job_and_keeps_its_weights(bench: Bench) -> None:
    protocol = bench.folder / "own.toml"
    protocol.write_text('name = "own"\nbased_on = "pocket-1.0"\nmetric = "own"\n', encoding="utf-8")
    bench.put("own", UNDEFINED_OWN.replace("VALUE", 'float("nan")'))
    failed = bench.harness("run", "okay", *bench.quick, "--protocol", "own.toml", "--format", "json")
    assert failed.code == 1
    assert failed.rows[0]["state"] == "failed"
    assert "computes own as nan, expected a finite number" in failed.rows[0]["detail"]
    assert "The trained weights are kept" in failed.rows[0]["detail"]
    bench.put("own", UNDEFINED_OWN.replace("VALUE", "25.0"))
    done = bench.harness("run", "okay", *bench.quick, "--protocol", "own.toml", "--format", "json")
    assert done.code == 0, done.err
    assert done.rows[0]["accuracy"] == 25.0
    result = json.loads(next(bench.folder.glob("runs/own-*/okay/*/seed-0/result.json")).read_text(encoding="utf-8"))
    assert [entry["epoch"] for entry in result["interruptions"]] == [2]


FAMILY = """
import functools
from harness.api import ModelSpec, hookimpl

def build(num_classes, *, width):
    from torch import nn
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

def within(width):
    return lambda num_classes: build(num_classes, width=width)

@hookimpl
def harness_models():
    return [ModelSpec(name="fam", build=functools.partial(build, width=WIDTH), paper="none"),
            ModelSpec(name="closure", build=within(WIDTH), paper="none")]
"""


def test_a_result_is_stale_once_the_plugin_builds_another_model(bench: Bench) -> None:
    bench.put("fam", FAMILY.replace("WIDTH", "8"))
    assert bench.harness("run", "fam", "closure", *bench.quick).code == 0
    assert [bench.state(name) for name in ("fam", "closure")] == ["done", "done"]
    bench.put("fam", FAMILY.replace("WIDTH", "9"))
    assert [bench.state(name) for name in ("fam", "closure")] == ["stale", "stale"]


EDITED = """
from harness.api import ModelSpec, hookimpl

def build(num_classes):
    import time
    from torch import nn
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
            self.head = nn.Linear(8, num_classes)
        def forward(self, x):
            time.sleep(PAUSE)
            return self.head(ACTIVATION(self.conv(x)).mean((2, 3)))
    return Net()

@hookimpl
def harness_models():
    return [ModelSpec(name="edited", build=build, paper="none")]
"""


def test_a_result_tells_that_its_plugin_was_edited_half_way(bench: Bench) -> None:
    bench.put("edited", EDITED.replace("PAUSE", "0.3").replace("ACTIVATION", "nn.functional.relu"))
    process = bench.start("run", "edited", *bench.quick)
    cell = bench.cell("edited")
    wait_until(lambda: (cell / "job.json").exists(), process=process)
    time.sleep(2)
    process.terminate()
    process.communicate()
    assert (cell / "checkpoint.pt").exists()
    assert not (cell / "result.json").exists()
    bench.put("edited", EDITED.replace("PAUSE", "0").replace("ACTIVATION", "nn.functional.gelu"))
    ran = bench.harness("run", "edited", *bench.quick)
    assert ran.code == 0, ran.err
    result = bench.result("edited")
    assert result["deviations"] == ["the source of model edited was edited half-way, expected the same throughout"]
    assert any("The source of model edited was edited half-way" in note for note in result["notes"])
    verified = bench.harness("verify", "runs", "--registry", "quick.toml")
    assert verified.code == 1
    assert "the source of model edited" in verified.err


SET_IN_REPR = """
from harness.api import ModelSpec, hookimpl

def build(num_classes):
    from torch import nn
    class Pool(nn.AdaptiveAvgPool2d):
        kinds = {"avg", "max", "lp", "gem", "mixed"}
        def extra_repr(self):
            return f"output_size=1, kinds={self.kinds}, first={', '.join(self.kinds)}"
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Pool(1),
                         nn.Flatten(), nn.Linear(8, num_classes))

@hookimpl
def harness_models():
    return [ModelSpec(name="setrepr", build=build, paper="none")]
"""


def test_a_model_that_prints_a_set_keeps_its_results(bench: Bench) -> None:
    bench.put("setrepr", SET_IN_REPR)
    assert bench.harness("run", "setrepr", *bench.quick, PYTHONHASHSEED="1").code == 0
    again = bench.harness("run", "setrepr", *bench.quick, PYTHONHASHSEED="2")
    assert "1 done; 0 carried out by this command" in again.err
    assert not (bench.cell("setrepr").parent / "set-aside").exists()
