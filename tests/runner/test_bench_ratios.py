# SPDX-License-Identifier: GPL-2.0-or-later
"""What tools/bench --vs makes of two benchmark programs."""
import json
import pathlib
import subprocess
import sys

RATIOS = pathlib.Path(__file__).parents[2] / "tools/lib/bench-ratios.py"


def program(path, times):
    """A benchmark program whose benchmarks take times[name][i] in its run i."""
    path.write_text(f"""#!{sys.executable}
import json, pathlib
runs = pathlib.Path(__file__ + ".runs")
run = int(runs.read_text()) if runs.exists() else 0
runs.write_text(str(run + 1))
times = json.loads({json.dumps(times)!r})
print(json.dumps({{"benchmarks": [
    {{"name": name, "run_type": "iteration", "cpu_time": all[run], "time_unit": "us"}}
    for name, all in times.items()]}}))
""")
    path.chmod(0o755)
    return path


def ratios(*arguments):
    return subprocess.run([RATIOS, *arguments], capture_output=True, text=True)


def test_the_speeds_are_those_of_the_medians(tmp_path):
    before = program(tmp_path / "before", {"Write": [9, 2, 2, 2, 2, 1, 1], "Gone": [1] * 7})
    after = program(tmp_path / "after", {"Write": [4, 4, 4, 4, 1, 1, 90], "New": [1] * 7})
    run = ratios(before, after)
    assert run.returncode == 0, run.stderr
    assert "| Write     |       2000.0 |       4000.0 |  0.50 |" in run.stdout
    assert "only before: Gone" in run.stdout and "only after: New" in run.stdout


def test_programs_with_nothing_in_common_are_an_error(tmp_path):
    run = ratios(program(tmp_path / "before", {"A": [1] * 7}), program(tmp_path / "after", {"B": [1] * 7}))
    assert run.returncode != 0 and "no benchmark in common" in run.stderr
