from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.line.models import line_bundle, part

ROOT = Path(__file__).parents[2]
EXTRAS = ("gi", "paho", "asyncua", "pymodbus", "prometheus_client", "torch", "onnx", "reason_train", "reason_export")
PROBE = """
import json, sys
{before}
sys.argv[1:] = ["inspect", *sys.argv[1:]]
from reason_runtime.commands import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})), file=sys.stderr)
"""


def loaded(tmp_path: Path, *, before: str = "") -> set[str]:
    from PIL import Image

    bundle = line_bundle(tmp_path / "bundle").path
    (tmp_path / "parts").mkdir()
    Image.fromarray(part(130)).save(tmp_path / "parts" / "a.png")
    arguments = [sys.executable, "-c", PROBE.format(before=before), bundle, "--source", tmp_path / "parts"]
    sinks = ["--sink", f"jsonl:{tmp_path}/r.jsonl", "--sink", f"pictures:{tmp_path}/rejects"]
    done = subprocess.run([*map(str, arguments), *sinks], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_a_line_without_extras_loads_none_of_their_libraries(tmp_path: Path) -> None:
    assert loaded(tmp_path).isdisjoint(EXTRAS)


def test_the_probe_can_fail(tmp_path: Path) -> None:
    assert {"paho", "asyncua"} <= loaded(tmp_path, before="import paho.mqtt.client, asyncua")


@pytest.mark.parametrize("name", EXTRAS[:5])
def test_a_line_runs_where_an_extra_is_missing(tmp_path: Path, name: str) -> None:
    assert name not in loaded(tmp_path, before=f"sys.modules[{name!r}] = None") - {name}
