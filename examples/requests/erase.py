"""Erases the photos that a request lists: python examples/requests/erase.py made/requests/request-1.csv"""

import csv
import sys
from pathlib import Path

request = Path(sys.argv[1])
with request.open(newline="") as file:
    for row in csv.DictReader(file):
        (request.parent / "photos/train" / row["photo"]).unlink()
print(f"{request}: its photos are erased")
