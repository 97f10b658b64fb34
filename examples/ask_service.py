"""Asks a service of ``distmeta serve``: adapt to the images of new/support/, then predict those of new/query/.

python examples/ask_service.py ADDRESS TOKEN
"""

import base64
import sys
from pathlib import Path

import requests


def encoded(file: Path) -> str:
    """An image file as text."""
    return base64.b64encode(file.read_bytes()).decode()


def main() -> None:
    """Adapt and predict."""
    address, token = sys.argv[1:]
    headers = {"Authorization": f"Bearer {token}"}
    support = sorted(Path("new/support").glob("*/*.png"))
    query = sorted(Path("new/query").glob("*.png"))
    body = {"images": [encoded(file) for file in support], "labels": [file.parent.name for file in support]}
    adapted = requests.post(f"{address}/adapt", json=body, headers=headers, timeout=60)
    adapted.raise_for_status()
    asked = {"model": adapted.json()["model"], "images": [encoded(file) for file in query]}
    answer = requests.post(f"{address}/predict", json=asked, headers=headers, timeout=60)
    answer.raise_for_status()
    right = sum(name in file.name for name, file in zip(answer.json()["predictions"], query, strict=True))
    for name, file in zip(answer.json()["predictions"], query, strict=True):
        print(f"{file.name}: {name}")
    print(f"{right} of {len(query)} are right")


if __name__ == "__main__":
    main()
