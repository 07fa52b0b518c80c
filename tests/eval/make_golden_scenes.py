"""Write golden_scenes.json, fingerprints of a few scenes; run only when the pictures are meant to change.

From the root of the repository: PYTHONPATH=. python tests/eval/make_golden_scenes.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from eval.scenes.world import make_scene

GOLDEN = Path(__file__).with_name("golden_scenes.json")
CASES: tuple[tuple[str, int], ...] = (
    *(("train", index) for index in (0, 1, 2, 3, 12345)),
    *(("validation", index) for index in (0, 7)),
    *(("test", index) for index in (0, 1, 999)),
    *(("heldout", index) for index in (0, 1, 2)),
)


def fingerprint(split: str, index: int) -> dict[str, str]:
    """Hash one scene with SHA-256: its description (repr), its picture and its owner map, as hexadecimal."""
    scene, image, owner = make_scene(split, index)
    return {
        "scene": hashlib.sha256(repr(scene).encode()).hexdigest(),
        "image": hashlib.sha256(image.tobytes()).hexdigest(),
        "owner": hashlib.sha256(owner.tobytes()).hexdigest(),
    }


def main() -> None:
    """Write the file beside this script."""
    golden = {f"{split}/{index}": fingerprint(split, index) for split, index in CASES}
    GOLDEN.write_text(json.dumps(golden, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
