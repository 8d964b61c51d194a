"""What is called how in a run folder."""

ORIGINAL, RETRAINED = "original", "retrained"
CONFIG, MANIFEST, SPLIT = "config.yaml", "manifest.json", "split.json"
HISTORY, EVALUATION = "history.jsonl", "evaluation.json"
