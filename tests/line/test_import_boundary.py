from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.imports import loaded_packages
from tests.line.models import line_bundle, part

LIBRARIES_OF_EXTRAS = ("gi", "paho", "asyncua", "pymodbus", "prometheus_client")
FORBIDDEN = {*LIBRARIES_OF_EXTRAS, "torch", "onnx", "reason_train", "reason_export"}


def loaded(tmp_path: Path, *, before: str = "pass") -> set[str]:
    bundle = line_bundle(tmp_path / "bundle").path
    (tmp_path / "parts").mkdir()
    Image.fromarray(part(130)).save(tmp_path / "parts" / "a.png")
    sinks = ["--sink", f"jsonl:{tmp_path}/r.jsonl", "--sink", f"pictures:{tmp_path}/rejects"]
    return loaded_packages(
        f"{before}; from reason_runtime.commands import main; main()",
        arguments=["inspect", bundle, "--source", tmp_path / "parts", *sinks],
    )


def test_a_line_without_extras_loads_none_of_their_libraries(tmp_path: Path) -> None:
    assert loaded(tmp_path).isdisjoint(FORBIDDEN)


def test_a_line_runs_where_the_extras_are_missing(tmp_path: Path) -> None:
    loaded(tmp_path, before=f"sys.modules.update(dict.fromkeys({LIBRARIES_OF_EXTRAS!r}))")
    assert (tmp_path / "r.jsonl").read_text().count("\n") == 1
