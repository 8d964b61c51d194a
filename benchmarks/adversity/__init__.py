"""What `benchmarks/chaos.py` does to runs: a hostile and an unlucky world, through the command line and the files."""
