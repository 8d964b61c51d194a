"""The benchmark of small edits, at a tiny size: each variant gives its row, and costs are measured at a small count."""

import json
from pathlib import Path
from runpy import run_path
from typing import Any

from helpers.benchmarks import Benchmark
from helpers.documents import ROOT
from helpers.shapes import save_untrained_pipeline, write_captioned_images

SCRIPT = ROOT / "benchmarks" / "edits.py"


def test_variants_are_compared_on_shapes(tmp_path: Path, benchmark: Benchmark) -> None:
    write_captioned_images(tmp_path / "images", 100, 100)
    save_untrained_pipeline(tmp_path / "pipeline-0")
    variants = ("uce", "leco", "sfron-prompts")
    small: dict[str, Any] = dict.fromkeys(("--count", "--samples", "--judge-steps", "--steps"), 1)
    small |= {"--image-steps": 2, "--data": tmp_path, "--concepts": "one"}
    words = [word for pair in small.items() for word in pair]
    said = benchmark(SCRIPT.name, "--seeds", 0, "--variants", *variants, *words, "--out", tmp_path / "rows.json")
    rows: dict[str, Any] = {row["variant"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert list(rows) == ["original", *variants]
    assert all(0 <= row[key] <= 100 for row in rows.values() for key in ("FA", "RA"))
    assert all(rows[name]["seconds"] > 0 for name in variants)
    assert 0 < rows["leco"]["file"] < rows["uce"]["file"] < rows["sfron-prompts"]["file"]
    table = [line for line in said.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table] == ["variant", *rows]


def test_concepts_and_groups_are_whole() -> None:
    module = run_path(str(SCRIPT))
    assert all(group in module["GROUPS"] for group, _ in module["VARIANTS"].values())
    assert len({each["prompt"] for each in module["CONCEPTS"]["five"]}) == 5
    found = module["measure"]("sd-1", "uce, last token", 2)
    assert found["rank"] == 2 and found["peak"] > 0
