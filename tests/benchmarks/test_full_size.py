"""The benchmark of full-size networks, at a tiny one: it runs, and the plan of its recipe has what was run."""

import json

from helpers.benchmarks import Benchmark

SCRIPT = "full_size.py"
TINY = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "cross_attention_dim": 48,
    "caption_channels": 32,
}


def test_it_measures_and_plans(benchmark: Benchmark) -> None:
    said = benchmark(SCRIPT, "--models", "pixart-xl-2", "--latent", 8, "--options", json.dumps(TINY))
    heads, _, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines())
    found = dict(zip(heads, row, strict=True))
    rank, layers = 8, 4  # of each adapter; the keys, values, queries and outputs of one cross-attention
    assert found["trained"] == f"{layers * rank * (48 + 48):,}"
    assert float(found["peak GiB"]) > float(found["libraries GiB"]) > 0.1
    assert float(found["planned GiB"]) < 0.1  # such a network is nothing beside the libraries


def test_flux_is_planned(benchmark: Benchmark) -> None:
    tiny = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    tiny |= {"axes_dims_rope": [4, 6, 6], "joint_attention_dim": 32, "pooled_projection_dim": 32}
    said = benchmark(SCRIPT, "--models", "flux-dev", "--plan", "--latent", 8, "--options", json.dumps(tiny))
    assert "nothing was started" in said and "sfron" in said
    layers = 4 + 2 + 1  # what hears of texts in a joint block, in a single one, and where they come in
    assert f", of which {8 * (32 + 32) * layers:,} are trained" in said
