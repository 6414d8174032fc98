"""Of each BUSI scan what is written on it, with nothing of the breast: for the overlay-only baseline of configs/study/busi.py.

  python docs/busi_overlay.py busi/ data/busi-1 busi-overlay/

Callipers and letters are thinner than the echoes around them, and brighter: what a white top-hat of 5 x 5 pixels finds
above 100 of 255 at 256 x 256. It finds some specks of tissue too, so what can be told from these pictures is at least what
can be told from the marks. A table, busi-overlay/overlay.csv, calls the near-duplicates that vitmed found among the scans
themselves one patient, so that they stay in one fold.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

THIN, BRIGHT = (5, 5), 100


def main(source: Path, dataset: Path, out: Path) -> None:
    sheet = json.loads((dataset / "datasheet.json").read_text())
    alike = {}
    for group in (*sheet["near_duplicate_groups"], *sheet["duplicate_groups"]):
        called = next((alike[name] for name in group if name in alike), group[0])
        alike.update(dict.fromkeys(group, called))
    rows = []
    for file in sorted(source.rglob("*.png")):
        scan = file.relative_to(source).as_posix()
        pixels = np.asarray(Image.open(file).convert("L")).astype(int)
        marks = np.where(ndimage.white_tophat(pixels, THIN) >= BRIGHT, 255, 0).astype(np.uint8)
        marks[0, 0] = 255  # of a scan that nothing is written on too, or it would be refused as blank
        place = out / scan
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(marks).save(place)
        rows.append((scan, file.parent.name, alike.get(scan, scan)))
    with open(out / "overlay.csv", "w", newline="") as table:
        csv.writer(table).writerows([("path", "label", "patient"), *rows])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
