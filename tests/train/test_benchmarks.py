from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.tables import EARLIER, PAGES, runs_table, with_tables
from benchmarks.tables import main as write_tables
from reason_runtime.errors import ConfigurationError, ReasonError

ROOT = Path(__file__).parents[2]
MEMORY = "nearest of 20000 teacher patches"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)


def script(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    return run(ROOT / "benchmarks" / f"{name}.py", *words)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return line


def test_the_tables_of_the_pages_are_those_of_the_result_files() -> None:
    before = {page: page.read_bytes() for page in PAGES}
    write_tables(check=True)
    assert {page: page.read_bytes() for page in PAGES} == before


@pytest.mark.parametrize(
    "page",
    [
        "<!-- speed -->\nold\n<!-- /sped -->\n",
        "<!-- sped -->\nold\n<!-- /sped -->\n",
        "<!-- speed -->\nold\n",
        "old\n<!-- /speed -->\n",
        "<!-- speed -->\n<!-- speed -->\nold\n<!-- /speed -->\n",
    ],
)
def test_a_mark_that_would_keep_an_old_table_for_ever_is_an_error(page: str) -> None:
    with pytest.raises(ReasonError, match=r"page\.md: <!-- "):
        with_tables(page, {"speed": "new\n"}, name="page.md")
    good = "a\n<!-- speed -->\nold\n<!-- /speed -->\nb\n"
    assert with_tables(good, {"speed": "new\n"}, name="page.md") == good.replace("old", "new")
    sentence = "in <!-- share -->0.8<!-- /share --> of\n<!-- splits -->20<!-- /splits --> cases"
    after = with_tables(sentence, {"share": "0.9", "splits": "30"}, name="page.md")
    assert after == sentence.replace("0.8", "0.9").replace("20", "30")


def test_runs_of_one_seed_are_no_independent_ones_for_a_standard_error() -> None:
    rows = runs_table(("default",), EARLIER).splitlines()
    (repeated,) = (row for row in rows if "| 9 |" in row)  # of three seeds
    assert "+-" not in repeated
    assert all("+-" in row for row in rows if "| 10 |" in row)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("speed", {"bundles": [Path("none")]}),
        ("layers", {"bundle": Path("none")}),
        ("camera_size", {"plain": Path("none"), "camera": Path("none")}),
        ("precision", {"bundle": Path("none"), "data": Path("none")}),
        ("nearest_neighbour", {"data": Path("none")}),
        ("coverage", {"runs": [Path("none")], "data": Path("none")}),
        ("end_to_end", {"data": Path("none")}),
        ("install_size", {}),
        ("line_latency", {"bundle": Path("none")}),
        ("soak", {}),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_before_anything_is_measured(
    name: str, arguments: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    main = importlib.import_module(f"benchmarks.{name}").main
    for out in (tmp_path / "none" / "found.json", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            main(**arguments, out=out)


def test_a_demo_removes_an_earlier_demo_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "thesis.txt").write_text("mine")
    assert "holds 'thesis.txt'" in one_line(script("demo", "--out", tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"run", "thesis.txt"}


def test_a_demo_without_its_photographs_is_one_line(tmp_path: Path) -> None:
    demo = ROOT / "benchmarks" / "demo.py"
    lines = (
        "import runpy, sys",
        "sys.modules['skimage'] = None",
        f"sys.path.insert(0, {str(demo.parent)!r})",
        f"sys.argv = ['demo.py', '--out', {str(tmp_path / 'demo')!r}]",
        f"runpy.run_path({str(demo)!r}, run_name='__main__')",
    )
    assert one_line(run("-c", "\n".join(lines))) == 'error: skimage is not installed; pip install "reason-edge[demo]"'


@pytest.mark.slow
def test_a_study_adds_no_rows_to_those_of_another(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    words = ("--data", tmp_path, "--seeds", 1, "--only", "brick", "--variant", MEMORY, "--out", out)
    done = script("ablation", *words, "--steps", 600)
    assert done.returncode == 0, done.stderr
    made = out.read_bytes()
    assert [row["data"] for row in json.loads(made)["rows"]] == ["brick"]
    for other in (("--steps", 0), ("--only", "grass", "--variant", "default")):
        asked = (*words, *other) if other[0] == "--steps" else ("--data", tmp_path, *other, "--out", out)
        assert "name another --out" in one_line(script("ablation", *asked))
    assert script("ablation", *words, "--steps", 600).returncode == 0
    assert out.read_bytes() == made


@pytest.mark.slow
def test_a_set_that_fails_ends_a_study_and_keeps_what_was_done(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    sets = ("brick", "alien, painted", "gravel")
    only = [word for name in sets for word in ("--only", name)]
    done = script("ablation", "--data", tmp_path, "--seeds", 1, *only, "--variant", MEMORY, "--out", out)
    assert "alien: no such folder" in one_line(done)
    assert [row["data"] for row in json.loads(out.read_text())["rows"]] == ["brick"]
    assert f"gravel {MEMORY}" not in done.stdout


@pytest.mark.slow
def test_a_category_in_one_word_is_every_commands(tmp_path: Path) -> None:
    done = script("end_to_end", "--data", tmp_path / "none", "--", "--category=a", "--seed", "1")
    assert done.returncode == 1
    assert f"--data {tmp_path / 'none'} --category a --out" in done.stderr


def test_a_line_that_cannot_be_measured_is_one_line(tmp_path: Path) -> None:
    done = run("-m", "benchmarks.line_latency", "--bundle", tmp_path / "none", "--out", tmp_path / "found.json")
    assert "is not a bundle" in one_line(done)
    assert list(tmp_path.iterdir()) == []
