"""The benchmarks of Fisher and of the layout print their tables, and Fisher is exact on a network of theirs."""


def rows(printed):
    """Of a Markdown table: the first cell → the others by their heads."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    return {first: dict(zip(lines[0][1:], rest, strict=True)) for first, *rest in lines[2:]}


def test_fisher(benchmark):
    words = ["--models", "gpt2", "unet", "--batch", "2", "--repeats", "1", "--exact", "2"]
    table = rows(benchmark("fisher_models.py", *words))
    assert table.keys() == {"gpt2", "unet"}
    for cells in table.values():
        assert cells["batch"] == "2"
        assert all(float(cells[name]) > 0 for name in ("plain s", "further batch", "first batch"))
        assert cells["memory"] == "–" or float(cells["memory"]) > 0
        assert float(cells["error"]) < 1e-12


def test_layout(benchmark):
    words = ["--models", "small-cnn", "depthwise", "unet-small", "--batch", "2", "--repeats", "1"]
    table = rows(benchmark("layout.py", *words))
    rule = {name: cells["rule"] for name, cells in table.items()}
    assert rule == {"small-cnn": "channels last", "depthwise": "as it is", "unet-small": "as it is"}
    assert all(float(cells["ratio"]) > 0 for cells in table.values())
