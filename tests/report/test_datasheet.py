"""The datasheet's page: everything a reader must know of a set, in one file that loads nothing."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest
from vitmed.report import datasheet


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """24 pictures of two classes and two sites, one mirrored with the other label, and a broken file."""
    root = tmp_path_factory.mktemp("page")
    (root / "s").mkdir()
    lines = ["path,patient,site,label"]
    y, x = np.mgrid[:48, :40] / 40
    for k in range(24):
        rng = np.random.Generator(np.random.Philox(key=k))
        waves = sum(np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(-4, 4, (12, 3)))
        pixels = (128 + 9 * waves).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "s" / f"{k}.png")
        lines.append(f"{k}.png,<b>{k}</b>,{'north' if k % 2 else 'south'},{'sick' if k % 3 else 'well'}")
        if k == 1:
            Image.fromarray(pixels[:, ::-1]).save(root / "s" / "copy.png")
            lines.append("copy.png,other,south,well")
    (root / "s" / "broken.png").write_bytes(b"junk")
    (root / "s" / "labels.csv").write_text("\n".join(lines) + "\n")
    ingest(root / "s", root / "set", labels=root / "s" / "labels.csv", modality="xray", progress=False)
    return root / "set"


def test_the_page_tells_what_the_sheet_holds(dataset, tmp_path):
    """Otherwise a reader of the page learns less, or something else, than the file says."""
    text = datasheet.write(dataset, tmp_path / "page.html").read_text()
    sheet = read(dataset)
    assert sheet["near_contradictions"] == 1 and "1 cluster of scans that look alike" in text
    for word in ("sick", "well", "north", "south", "broken.png", "not a readable image", "HMAC-SHA256"):
        assert word in text, word
    assert sheet["content_hash"] in text and "48 pixels in every scan" in text
    assert text.count('src="data:image/png;base64,') >= 10 + 2
    assert "25 scans without a known spacing" in text


def test_the_page_loads_nothing(dataset, tmp_path):
    """Otherwise it is empty where there is no network, and tells others who reads it."""
    text = datasheet.write(dataset, tmp_path / "page.html").read_text()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert all(link.startswith(("data:", "#")) for link in loaded) and "@import" not in text


def test_sheets_of_older_sets_are_shown(tiny_dataset, tmp_path):
    """Otherwise a dataset made before near-duplicates were looked for has no page."""
    import json
    import shutil

    old = tmp_path / "old"
    shutil.copytree(tiny_dataset, old)
    sheet = read(old)
    for key in (
        "sizes",
        "spacings",
        "sites",
        "near_duplicates",
        "privacy",
        "plan",
        "history",
        "near_contradictions",
    ):
        del sheet[key]
    (old / "datasheet.json").write_text(json.dumps(sheet))
    text = datasheet.write(old).read_text()
    assert "were not searched for" in text and (old / "datasheet.html").exists()


def test_the_page_of_a_dataset_needs_no_jax():
    """Otherwise ingest of a large folder takes 200 MB more, for a page that computes nothing."""
    program = (
        "import sys, vitmed.cli.ingest, vitmed.data.ingest, vitmed.report.datasheet; "
        "sys.exit(', '.join({'jax', 'flax', 'orbax'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
