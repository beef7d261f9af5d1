"""One broken plugin, distribution or stream stops only itself."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.reported.conftest import HARNESS, Bench
from tests.support import Command, Ran

METRIC = """
from harness.api import MetricSpec, hookimpl
@hookimpl
def harness_metrics():
    return [MetricSpec(name="{name}", unit="", higher_is_better=True, compute=lambda logits, labels: 1.0)]
"""


def models(ran: Ran) -> set[str]:
    assert ran.code == 0, ran.err
    return {row["name"] for row in ran.rows}


def reason(bench: Bench, plugin: str) -> str:
    rows = bench.harness("plugin", "list", "--format", "json").rows
    return next(str(row["reason"]) for row in rows if row["plugin"] == plugin)


def in_shell(bench: Bench, line: str) -> Ran:
    """Run a line of a shell in the scratch folder; $HARNESS is the command."""
    environment = bench.environment | {"HARNESS": str(HARNESS)}
    ran = subprocess.run(
        ["bash", "-c", line],
        cwd=bench.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


# ------------------------------------------------------------------------------------------------ damaged metadata


@pytest.mark.parametrize("metadata", [None, "", "Metadata-Version: 2.1\nName: other\n"])
def test_a_distribution_with_damaged_metadata_is_named_with_its_folder(bench: Bench, metadata: str | None) -> None:
    bench.put("other", METRIC.format(name="mine"))
    information = bench.site / "other-1.0.dist-info"
    (information / "METADATA").unlink()
    if metadata is not None:
        (information / "METADATA").write_text(metadata)
    assert "okay" in models(bench.harness("list", "--format", "json"))
    found = reason(bench, "other")
    assert f"METADATA is missing or has no name and version, in {information}" in found
    assert "pip install --force-reinstall other" in found


def test_a_bad_line_in_entry_points_of_the_harness_costs_that_distribution(bench: Bench) -> None:
    bench.put("other", METRIC.format(name="mine"))
    (bench.site / "other-1.0.dist-info" / "entry_points.txt").write_text("[harness]\nother\n")
    assert "okay" in models(bench.harness("list", "--format", "json"))
    assert "entry_points.txt" in reason(bench, "other")


def test_a_damaged_distribution_of_something_else_is_no_problem(bench: Bench) -> None:
    information = bench.site / "foo-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: foo\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[console_scripts]\nfoo\n")
    ran = bench.harness("list", "--format", "json")
    assert "okay" in models(ran)
    assert "problem" not in ran.err
    assert bench.harness("--version").code == 0


def test_a_finder_of_distributions_that_raises_stops_no_other(bench: Bench) -> None:
    (bench.site / "sitecustomize.py").write_text(
        "import sys\nclass Finder:\n    find_spec = staticmethod(lambda *a: None)\n"
        "    def find_distributions(self, context): raise RuntimeError('no')\nsys.meta_path.insert(0, Finder())\n"
    )
    assert "okay" in models(bench.harness("list", "--format", "json"))


# ------------------------------------------------------------------------------------------------ failing imports


@pytest.mark.parametrize(
    "source",
    [
        "class E(Exception):\n    def __str__(self): return self.args[3]\nraise E('x')",
        "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E('x')",
        "raise KeyboardInterrupt",
        "raise SystemExit",
        "raise GeneratorExit",
        "from harness.api import hookimpl\n"
        "class X:\n    def __repr__(self): raise ValueError\n@hookimpl\ndef harness_models(): yield X()",
        "import sys\nsys.stdout.close(); sys.stderr.close(); sys.stdout = sys.stderr = None; raise ValueError('x')",
    ],
)
def test_a_plugin_that_fails_in_an_odd_way_stops_only_itself(bench: Bench, source: str) -> None:
    bench.put("zbad", source)
    ran = bench.harness("list", "--format", "json")
    assert "okay" in models(ran)
    assert "1 plugin has a problem" in ran.err
    assert reason(bench, "zbad")


# ------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    "source",
    [
        'import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")',
        'import io, sys\nsys.stderr = io.TextIOWrapper(sys.stderr.buffer, encoding="utf-8")',
        'import codecs, sys\nsys.stdout = codecs.getwriter("utf-8")(sys.stdout.detach())',
        "import sys\nsys.stdout.close()\nsys.stderr.close()",
        "import sys\nsys.stdout = None\nsys.stderr = None",
    ],
)
def test_two_plugins_that_replace_the_streams_leave_the_commands_alone(bench: Bench, source: str) -> None:
    bench.put("zwraps", source + METRIC.format(name="mine"))
    bench.put("zzwraps", source + METRIC.format(name="other"))
    bench.put("zzzfails", "raise ValueError('said at the end')")
    ran = bench.harness("list", "metrics", "--format", "json")
    assert {"mine", "other"} <= models(ran)
    assert "1 plugin has a problem" in ran.err


def test_a_run_beside_a_plugin_that_wraps_stdout(bench: Bench) -> None:
    bench.put("zwraps", "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)" + METRIC.format(name="mine"))
    ran = bench.harness("run", "okay", *bench.quick, "--format", "json")
    assert ran.code == 0, ran.err
    assert ran.rows[0]["state"] == "done"
    assert "1 done; 1 carried out" in ran.err


@pytest.mark.parametrize("where", ["{noise}\n" + METRIC, METRIC.replace("    return", "    {noise}\n    return")])
@pytest.mark.parametrize(
    "noise",
    ['import os; os.system("echo driver 12.4")', 'import atexit, sys; atexit.register(print, "driver 12.4")'],
)
def test_output_below_python_goes_to_stderr(bench: Bench, where: str, noise: str) -> None:
    bench.put("noisy", where.format(name="mine", noise=noise))
    ran = bench.harness("list", "metrics", "--format", "json")
    assert "mine" in models(ran)
    assert "driver 12.4" in ran.err


def test_output_of_a_build_goes_to_stderr(bench: Bench) -> None:
    source = (bench.site / "okay.py").read_text()
    noise = '    import os; os.system("echo driver 12.4"); print("built")\n    return nn'
    bench.put("okay", source.replace("    return nn", noise))
    ran = bench.harness("check-budget", "okay", "--format", "json")
    assert json.loads(ran.out)[0]["model"] == "okay"
    assert "driver 12.4" in ran.err


def test_completion_shows_no_output_of_plugins(bench: Bench) -> None:
    bench.put("noisy", 'import os; os.system("echo plain,noise")' + METRIC.format(name="mine"))
    ran = bench.harness(_HARNESS_COMPLETE="bash_complete", COMP_WORDS="harness run oka", COMP_CWORD="2")
    assert ran.out.split() == ["plain,okay"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_change_no_exit_code(bench: Bench, closed: str) -> None:
    assert in_shell(bench, f'"$HARNESS" list {closed}').code == 0


def test_a_run_without_stderr_trains(bench: Bench) -> None:
    quick = " ".join(bench.quick)
    ran = in_shell(bench, f'"$HARNESS" run okay {quick} 2>&- && "$HARNESS" status okay {quick} --format json')
    assert ran.code == 0
    assert '"state": "done"' in ran.out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("command", ["list", "--help", "list --format json"])
def test_a_full_disk_behind_stdout_is_a_sentence(bench: Bench, command: str) -> None:
    ran = in_shell(bench, f'"$HARNESS" {command} >/dev/full')
    assert ran.code == 3
    assert "can't be written to stdout: No space left on device" in ran.err
    assert "Traceback" not in ran.err
    assert "Exception ignored" not in ran.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")  # noqa: PTH110
def test_a_full_disk_behind_stderr_loses_messages_only(bench: Bench) -> None:
    bench.put("noisy", 'import sys; print("hi"); print("ho", file=sys.stderr)' + METRIC.format(name="mine"))
    ran = in_shell(bench, '"$HARNESS" list metrics --format json 2>/dev/full')
    assert "mine" in models(ran)


def test_a_reader_that_stops_reading_hides_no_failure(bench: Bench) -> None:
    bench.put("okay", (bench.site / "okay.py").read_text().replace("return nn", "raise ValueError('no'); return nn"))
    ran = in_shell(bench, f'set -o pipefail; "$HARNESS" run okay {" ".join(bench.quick)} | true')
    assert ran.code == 1
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_unicode_shows_every_row(bench: Bench, encoding: str) -> None:
    source = METRIC.format(name="kanji").replace('unit=""', 'unit="", title="漢字 Müller"')
    bench.put("kanji", source)
    ran = bench.harness("list", "metrics", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert ran.code == 0, ran.err
    assert "kanji" in ran.out


# ----------------------------------------------------------------------------------------------------- messages


def test_two_entry_points_to_one_module_are_told_in_a_line(bench: Bench) -> None:
    (bench.site / "okay-1.0.dist-info" / "entry_points.txt").write_text("[harness]\nokay = okay\nalias = okay\n")
    rows = bench.harness("plugin", "list", "--format", "json").rows
    found = {row["plugin"]: row["reason"] for row in rows}
    assert "loaded already for the entry point 'alias'" in found["okay"]
    assert max(map(len, found.values())) < 300


def test_a_version_of_the_wrong_type_is_quoted(bench: Bench) -> None:
    bench.put("zold", 'HARNESS_API = "1"\n' + METRIC.format(name="mine"))
    assert "hook API version '1', this harness has version 1" in reason(bench, "zold")


def test_an_entry_point_that_is_no_module_is_quoted(bench: Bench) -> None:
    bench.put("zfile", METRIC.format(name="mine"))
    (bench.site / "zfile-1.0.dist-info" / "entry_points.txt").write_text("[harness]\nzfile = the zfile.py\n")
    assert "its entry point is 'the zfile.py'; expected a module" in reason(bench, "zfile")


def test_a_hook_under_a_name_of_its_own_is_called(bench: Bench) -> None:
    bench.put(
        "named",
        METRIC.format(name="mine")
        .replace("@hookimpl", '@hookimpl(specname="harness_metrics")')
        .replace("def harness_metrics", "def mine"),
    )
    assert "mine" in models(bench.harness("list", "metrics", "--format", "json"))


def test_a_long_reason_is_cut_and_has_the_plugins_line(bench: Bench) -> None:
    bench.put("zlong", "x = 1\nraise ValueError('no good ' * 1000)")
    found = reason(bench, "zlong")
    assert len(found) < 400
    assert found.endswith(f"({bench.site / 'zlong.py'}, line 2)")


def test_a_password_in_an_error_is_not_shown(bench: Bench) -> None:
    bench.put("zsecret", "raise OSError('no answer from https://me:s3cret@example.org/x')")
    ran = bench.harness("list", "plugins")
    assert "s3cret" not in ran.out + ran.err
    assert "example.org" in ran.out


# ------------------------------------------------------------------------------------------------------- the end


def test_a_thread_of_a_plugin_does_not_keep_the_command(bench: Bench) -> None:
    source = "import threading, time\nthreading.Thread(target=lambda: time.sleep(100), name='beat').start()\n"
    bench.put("zbeat", source + METRIC.format(name="mine"))
    began = time.monotonic()
    ran = bench.harness("list", "metrics", "--format", "json")
    assert "mine" in models(ran)
    assert time.monotonic() - began < 60
    assert "thread 'beat'" in ran.err


@pytest.mark.parametrize("command", [("--help",), ("run", "--help"), ("plugin", "new", "--help")])
def test_stripped_docstrings_leave_the_help_or_say_so(bench: Bench, command: tuple[str, ...]) -> None:
    ran = bench.harness(*command, PYTHONOPTIMIZE="2")
    assert ran.code == 0, ran.err
    expected = "Benchmark small vision models" if command == ("--help",) else "Python runs with -OO"
    assert expected in ran.out


# -------------------------------------------------------------------------------------------------------- paths


def test_folder_of_the_user_survives_a_plugin(bench: Bench) -> None:
    bench.put("zmoves", f"import os; os.chdir({str(bench.site)!r})" + METRIC.format(name="mine"))
    work = bench.folder / "work"
    work.mkdir()
    ran = bench.harness("run", "okay", *bench.quick, cwd=work)
    assert ran.code == 0, ran.err
    assert [path.name for path in work.iterdir()] == ["runs"]
    assert not (Path(bench.site) / "runs").exists()


def test_a_home_that_no_shell_expanded_is_the_users(bench: Bench) -> None:
    home = bench.folder / "home"
    home.mkdir()
    ran = bench.harness(
        "run", "okay", *bench.quick, "--runs=~/results",
        cwd=bench.site, HOME=str(home), HARNESS_DATA="~/sets", XDG_CACHE_HOME="~/cache",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert {"sets", "cache", "results"} <= {path.name for path in home.iterdir()}
    assert not (bench.site / "~").exists()


def test_a_home_that_nobody_has_is_a_sentence(bench: Bench) -> None:
    ran = bench.harness("status", "okay", *bench.quick, "--runs", "~nobody-of-this-name/runs")
    assert ran.code == 2
    assert "begins with a home folder that this system does not know" in ran.err


def test_a_plugin_that_moves_in_every_hook_moves_no_file(bench: Bench) -> None:
    move = f"import os; os.chdir({str(bench.site)!r})"
    source = METRIC.format(name="mine").replace("    return", f"    {move}\n    return")
    hook = f"@hookimpl\ndef harness_run_started(job):\n    {move}\n"
    bench.put("zmoves", source + hook)
    bench.put("okay", (bench.site / "okay.py").read_text().replace("    return nn", f"    {move}\n    return nn"))
    work = bench.folder / "work"
    work.mkdir()
    ran = bench.harness(
        "run", "okay", *bench.quick, "--in-process", "--runs", "mine",
        cwd=work, HARNESS_DATA="sets", XDG_CACHE_HOME="cache",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert {"mine", "sets"} <= {path.name for path in work.iterdir()}
    assert not any((bench.site / name).exists() for name in ("mine", "sets", "cache"))


# ------------------------------------------------------------------------------------------------------- numbers

HUGE = "99999999999999999999"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "--suite", "pocket", "--seeds", HUGE), "'--seeds'"),
        (("plan", "--suite", "pocket", "--jobs", HUGE), "'--jobs'"),
        (("run", "--suite", "pocket", "--threads", HUGE), "'--threads'"),
        (("run", "--suite", "pocket", "--jobs-per-gpu", HUGE), "'--jobs-per-gpu'"),
        (("plan", "--suite", "pocket", "--watts", "nan"), "'--watts'"),
        (("plan", "--suite", "pocket", "--watts", "inf"), "'--watts'"),
        (("select", "--published", "--resamples", HUGE), "'--resamples'"),
        (("select", "--published", "--top", HUGE), "'--top'"),
        (("select", "--published", "--size", HUGE), "must be between 1 and 6"),
        (("leaderboard", "--published", "--lambda", "1e308"), "Lambda is 1e+308"),
        (("doctor", "--resume", "--kills", HUGE), "'--kills'"),
    ],
)
def test_a_number_out_of_all_bounds_is_refused(harness: Command, arguments: tuple[str, ...], said: str) -> None:
    ran = harness(*arguments, "--dry-run") if arguments[0] == "run" else harness(*arguments)
    assert ran.code == 2
    assert said in ran.err


# --------------------------------------------------------------------------------- other entries into others' code


def test_a_tracker_that_needs_a_part_of_a_missing_package_is_listed(bench: Bench) -> None:
    source = """
from harness.api import TrackerSpec, hookimpl
@hookimpl
def harness_trackers():
    return [TrackerSpec(name="mine", title="Mine", open=print, needs=("no_such_package.part",))]
"""
    bench.put("zfollows", source)
    ran = bench.harness("list", "trackers", "--format", "json")
    found = {row["name"]: row["missing"] for row in ran.rows}
    assert found["mine"] == ["no_such_package.part"]


def test_an_executor_whose_queue_raises_hides_no_state(bench: Bench) -> None:
    source = """
from harness.api import ExecutorSpec, hookimpl
def waiting(folder): raise SystemExit("the queue is shut")
@hookimpl
def harness_executors():
    return [ExecutorSpec(name="mine", title="Mine", execute=lambda work: [], waiting=waiting)]
"""
    bench.put("zqueue", source)
    (bench.folder / "runs" / ".executors" / "mine").mkdir(parents=True)
    ran = bench.harness("status", "okay", *bench.quick, "--format", "json")
    assert ran.code == 0, ran.err
    assert ran.rows[0]["state"] == "missing"
    assert "the queue of the executor 'mine' is unknown. SystemExit: the queue is shut" in ran.err
