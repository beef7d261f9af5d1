"""Faults around models: what a build leaves behind, returns, or only fails at later."""

from __future__ import annotations

from tests.reported.conftest import Bench

HEAD = """
import functools
from harness.api import ModelSpec, hookimpl

def small(num_classes, *features):
    from torch import nn
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), *features, nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def model(name: str, source: str, *, spec: str = "") -> str:
    """A plugin with one model, whose ``build`` the source defines."""
    hook = f"@hookimpl\ndef harness_models():\n    return [ModelSpec(name={name!r}, build=build, {spec}paper='none')]\n"
    return f"{HEAD}\n{source}\n\n{hook}"


LEAKING = """
def build(num_classes):
    import torch
    from torch import nn
    nn.init.kaiming_uniform_ = lambda tensor, *a, **k: nn.init.normal_(tensor, std=0.02)
    nn.BatchNorm2d.__init__.__defaults__ = (1e-3, 0.01, True, True, None, None)
    torch.backends.cudnn.benchmark = True
    return small(num_classes)
"""
MIXED = """
def build(num_classes):
    import torch
    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small(num_classes)
        def forward(self, images):
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                return self.net(images).float()
    return Mixed()
"""
LATE_BUFFER = """
def build(num_classes):
    import os, signal, torch
    class Position(torch.nn.Module):
        calls = 0
        def forward(self, x):
            if not hasattr(self, "grid"):
                self.register_buffer("grid", torch.linspace(-1, 1, x.shape[-1]))
            Position.calls += 1
            if Position.calls == 20 and os.environ.get("STOP"):
                os.kill(os.getpid(), signal.SIGTERM)
            return x + self.grid
    return small(num_classes, Position())
"""
EXTRA_STATE = """
def build(num_classes):
    from torch import nn
    class Counting(nn.Module):
        calls = 0
        def forward(self, x):
            self.calls += 1
            return x
        def get_extra_state(self):
            return {"calls": self.calls}
        def set_extra_state(self, state):
            self.calls = state["calls"]
    return small(num_classes, Counting())
"""
EINSUM = """
def build(num_classes):
    import torch
    from torch import nn
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 8, stride=8, bias=False)
            self.weight = nn.Parameter(torch.randn(8, 8))
            self.head = nn.Linear(8, num_classes, bias=False)
        def forward(self, x):
            return self.head(torch.einsum("bchw,cd->bdhw", self.stem(x), self.weight).mean((2, 3)))
    return Net()
"""
TUPLE = """
def build(num_classes):
    from torch import nn
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small(num_classes)
        def forward(self, x):
            return (self.net(x), self.net(x))
    return Pair()
"""
SILENT = """
def build(num_classes):
    from torch import nn
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small(num_classes)
        def train(self, mode=True):
            super().train(mode)
        def eval(self):
            self.train(False)
        def forward(self, x):
            return self.net(x)
    return Silent()

def deploy(module):
    import copy
    return copy.deepcopy(module)
"""
NAMELESS = """
def build(num_classes):
    from torch import nn
    class Act(nn.ReLU):
        def extra_repr(self):
            return f"slope={self.slope}"
    return small(num_classes, Act())
"""


def test_a_build_that_changes_torch_changes_no_other_model(bench: Bench) -> None:
    bench.put("aleak", model("aleak", LEAKING))
    bench.harness("run", "okay", *bench.quick, "--runs", "alone")
    ran = bench.harness("run", "aleak", "okay", *bench.quick, "--in-process")
    assert ran.code == 0, ran.err
    alone, beside = bench.result("okay", runs="alone"), bench.result("okay")
    assert (beside["fingerprint"], beside["weights_sha256"]) == (alone["fingerprint"], alone["weights_sha256"])
    assert beside["notes"] == []
    assert "torch.nn.init.kaiming_uniform_" in bench.result("aleak")["notes"][0]


def test_a_cached_module_is_refused_before_it_trains(bench: Bench) -> None:
    bench.put("cached", model("cached", "build = functools.lru_cache(small)"))
    ran = bench.harness("run", "cached", *bench.quick, "--seeds", "2")
    assert ran.code == 1
    assert "hands out the same parameters at every build" in ran.out
    assert not list(bench.folder.glob("runs/*/cached/*/*/result.json"))


def test_bfloat16_inside_a_model_is_a_deviation(bench: Bench) -> None:
    bench.put("mixed", model("mixed", MIXED))
    bench.harness("run", "mixed", *bench.quick)
    result = bench.result("mixed")
    assert result["executed"]["precision"]["operators"] == "bfloat16"
    assert any("bfloat16" in sentence for sentence in result["deviations"])


def test_a_job_with_a_late_buffer_resumes(bench: Bench) -> None:
    bench.put("latebuf", model("latebuf", LATE_BUFFER))
    stopped = bench.harness("run", "latebuf", *bench.quick, "--in-process", STOP="1")
    assert "Stopped" in stopped.err
    ran = bench.harness("run", "latebuf", *bench.quick)
    assert ran.code == 0, ran.err
    assert len(bench.result("latebuf")["interruptions"]) == 1
    verified = bench.harness("verify", bench.cell("latebuf"), *bench.quick[-2:])
    assert verified.code == 0, verified.out


def test_a_model_with_an_extra_state_is_trained(bench: Bench) -> None:
    bench.put("extra", model("extra", EXTRA_STATE))
    ran = bench.harness("run", "extra", *bench.quick)
    assert ran.code == 0, ran.err
    assert bench.result("extra")["weights_sha256"]


def test_an_einsum_is_counted_to_the_last_product(bench: Bench) -> None:
    bench.put("ein", model("ein", EINSUM))
    (row,) = bench.harness("check-budget", "ein", "--format", "json").rows
    assert row["macs_multiply"] == 28 * 28 * 8 * 3 * 64 + 28 * 28 * 8 * 8 + 8 * 100
    assert row["torch_flops"] == 2 * row["macs_multiply"]
    assert row["notes"] == []


def test_a_tuple_is_told_as_such_by_every_command(bench: Bench) -> None:
    bench.put("pair", model("pair", TUPLE))
    for command in (("run", "pair", *bench.quick), ("check-budget", "pair")):
        ran = bench.harness(*command)
        assert "returns a tuple" in ran.out + ran.err
        assert "expected one float32 tensor of shape" in ran.out + ran.err
        assert "Traceback" not in ran.err


def test_modes_that_return_nothing_break_no_command(bench: Bench) -> None:
    bench.put("silent", model("silent", SILENT, spec="deploy=deploy, "))
    assert bench.harness("run", "silent", *bench.quick).code == 0
    ran = bench.harness("check-budget", "silent", "--format", "json")
    assert ran.rows[0]["deployed"] == ran.rows[0]["trainable"]["100"]


def test_a_structure_that_cannot_be_described_stops_its_own_model_alone(bench: Bench) -> None:
    bench.put("nameless", model("nameless", NAMELESS))
    ran = bench.harness("run", "nameless", "okay", *bench.quick)
    assert "has a structure that can't be described" in ran.out + ran.err
    assert "Traceback" not in ran.err
    states = {row["model"]: row["state"] for row in bench.harness("status", *bench.quick, "--format", "json").rows}
    assert states["okay"] == "done"
