"""The page, drawn whole from made-up folders and read back."""

import json
import re
from pathlib import Path

import pytest

from vitmed import config, durable, words
from vitmed.cli import report as verb
from vitmed.cli.main import main
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.job.config import resolve
from vitmed.report import findings, gather, page, reconstructions

real_triples = reconstructions.triples  # which a made-up home has no use for


@pytest.fixture
def drawn(home):
    """Draws the page of everything in a made-up home; gives the page's text and the home."""

    def draw(**changes):
        folder = home(**changes)
        page.write(
            folder / "report.html", runs=[folder / "mae", folder / "tuned"], studies=[folder / "study"]
        )
        return (folder / "report.html").read_text(), folder

    return draw


def test_simulated_scans_are_said_to_be_so(drawn):
    """Otherwise numbers made on phantoms would be read as evidence about patients."""
    text, _ = drawn(simulated=True)
    assert text.index(words.SIMULATED) < text.index("<h1>")


def test_real_scans_carry_no_banner(drawn):
    """Otherwise the banner says nothing."""
    assert words.SIMULATED not in drawn()[0]


def test_page_loads_nothing(drawn):
    """Otherwise a page that was mailed is broken, or tells a server who reads it."""
    text, _ = drawn()
    assert not re.search(r"""https?://|["'(]//|@import|<script|<link(?! rel=\"icon\" href="data:,")""", text)
    assert all(src.startswith("data:image/png;base64,") for src in re.findall(r'src="([^"]*)"', text))
    assert "url(" not in text


def test_numbers_are_those_of_the_table(drawn):
    """Otherwise the page and the table disagree, and one of them is quoted."""
    text, folder = drawn()
    table = json.loads((folder / "study" / "table.json").read_text())
    body = text[text.index('id="comparison"') : text.index('id="evaluation"')]
    for row in table["rows"]:
        for value in row["metrics"].values():
            assert words.number(value["value"]) in body
            assert words.interval(value["low"], value["high"]) in body
    for compared in table["comparisons"]:
        assert compared["sentence"] in body
    for compared in (c for c in table["comparisons"] if c["metric"] == "auroc"):
        assert words.interval(compared["low"], compared["high"], sign=True) in body


def test_evaluation_shows_interval_and_ledger(drawn):
    """Otherwise nobody sees how uncertain a number is, or how often the test split was opened for it."""
    text, _ = drawn()
    body = text[text.index('id="evaluation"') : text.index('id="provenance"')]
    assert "0.812" in body and words.interval(0.61, 0.95) in body
    assert "opened twice" in body


@pytest.fixture
def elsewhere(home):
    """A made-up home whose classifier was also evaluated on another hospital's scans."""
    folder = home()
    own = folder / "tuned" / "evaluations" / "test" / "metrics.json"
    found = json.loads(own.read_text())
    found |= {"dataset": "/mnt/x/other_hospital", "examples": 77, "opened": 1, "checkpoint": 900}
    found["metrics"]["auroc"] |= {"value": 0.555}
    other = own.parent.with_name("test@abababababab")
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps(found))
    return folder


def test_an_evaluation_of_another_dataset_is_headed_by_its_name(elsewhere):
    """Otherwise the own test and that of another hospital are two tables of one heading."""
    page.write(elsewhere / "report.html", runs=[elsewhere / "tuned"])
    text = (elsewhere / "report.html").read_text()
    body = text[text.index('id="evaluation"') : text.index('id="provenance"')]
    own, other = body.split("<th>Test split of other_hospital</th>")
    assert "<th>Test split</th>" in own and "0.812" in own and "0.555" not in own
    assert "The test split had been opened twice" in own and "the checkpoint of step 1,100." in own
    assert "0.555" in other and "The test split of other_hospital had been opened once" in other
    assert "the checkpoint of step 900." in other and "<code>abababababab</code>" in other
    assert "/mnt/x" not in text, "its name, not where it lay"


def test_the_opening_is_of_the_own_dataset_where_there_is_such_an_evaluation(elsewhere):
    """Otherwise the first number of the page is that of another hospital, or it is not said to be."""

    def header():
        page.write(elsewhere / "report.html", runs=[elsewhere / "tuned"])
        text = (elsewhere / "report.html").read_text()
        return text[: text.index("</header>")]

    own = elsewhere / "tuned" / "evaluations" / "test"
    found = json.loads((own / "metrics.json").read_text())
    (own / "metrics.json").write_text(json.dumps(found | {"split": "val"}))
    own = own.rename(own.with_name("val"))  # which in the order of names is behind that of the other
    both = header()
    assert "on 8 scans of 4 patients of the val split." in both and "other_hospital" not in both
    (own / "metrics.json").unlink()
    alone = header()
    assert "on 77 scans of 4 patients of the test split of other_hospital." in alone
    assert "AUROC of tuned on the test split of other_hospital" in alone


def test_groups_have_their_numbers_or_say_why_not(drawn):
    """Otherwise a weak site is not seen, or a handful of scans shows a number."""
    text, _ = drawn()
    body = text[text.index("By site") : text.index('id="provenance"')]
    assert "0.777" in body and words.interval(0.55, 0.91) in body and "0.111" not in body
    assert "too small: 4 scans; at least 10 are needed" in body and "unknown" in body
    assert "north &lt;b&gt;" in body and "2 with mass" in body and "intervals are by patient" not in body


def test_the_kind_of_interval_stands_beside_the_number(drawn):
    """Otherwise nobody knows how the bounds were made."""
    text, _ = drawn()
    body = text[text.index('id="evaluation"') : text.index('id="provenance"')]
    assert '<td class="quiet">score</td>' in body and "score-type interval" in body


def test_an_older_evaluation_still_draws(home):
    """Otherwise runs evaluated before there were kinds and groups have no page."""
    folder = home()
    file = folder / "tuned" / "evaluations" / "test" / "metrics.json"
    found = json.loads(file.read_text())
    del found["subgroups"], found["intervals"], found["metrics"]["auroc"]["interval"]
    file.write_text(json.dumps(found))
    page.write(folder / "report.html", runs=[folder / "tuned"])
    assert words.interval(0.61, 0.95) in (folder / "report.html").read_text()


def test_refusals_and_origins_are_shown(drawn):
    """Otherwise scans vanish silently, and a number cannot be traced to its run, commit and data."""
    text, folder = drawn()
    for said in (
        "3 files refused",
        "NaN pixels (2)",
        "notes.txt",
        "18 inside train",
        "8 between train and val",
    ):
        assert said in text
    for said in (
        "c0ffeec0ffee with changes",
        "jax 0.10.2",
        "0123456789abcdef",
        "python -m vitmed train",
        "study/pretrain",
    ):
        assert said in text
    assert str(folder) not in text, "paths are relative to the page"


def test_names_from_data_are_escaped(drawn):
    """Otherwise a class name or file name in a dataset can put markup, or a script, into the page."""
    text, _ = drawn()
    assert "&lt;b&gt;pneumonia&lt;/b&gt;" in text and "<b>pneumonia</b>" not in text


def test_a_dataset_that_moved_is_named(home):
    """Otherwise the page silently shows no scans."""
    folder = home()
    (folder / "data" / "datasheet.json").unlink()
    (folder / "data").rmdir()
    page.write(folder / "report.html", runs=[folder / "mae"])
    assert "no longer there" in (folder / "report.html").read_text()


def test_scans_that_were_learned_from_are_not_said_to_be_new(home):
    """Otherwise a run that is validated on its training split shows what it has seen as if it had not."""
    folder = home()
    held = durable.read_json(folder / "mae" / "config.json")
    held["config"]["data"]["val_split"] = "train"
    durable.write_json(folder / "mae" / "config.json", held)
    page.write(folder / "report.html", runs=[folder / "mae"])
    text = (folder / "report.html").read_text()
    assert "Scans of the train split. 75%" in text


def test_no_scan_is_shown_of_a_dataset_that_has_changed(drawn):
    """Ingested again with other splits, scans that the model learned from were said not to be."""
    text, folder = drawn()
    assert text.count("which the model did not learn from") == 2 and "has changed since" not in text
    sheet = json.loads((folder / "data" / "datasheet.json").read_text())
    (folder / "data" / "datasheet.json").write_text(json.dumps(sheet | {"content_hash": "00" * 32}))
    page.write(folder / "report.html", runs=[folder / "mae"])
    text = (folder / "report.html").read_text()
    assert "which the model did not learn from" not in text and "what it saw" not in text
    assert "The dataset has changed since this run learned from it" in text


def test_a_dataset_that_is_only_tested_on_is_shown_too(tiny_pngs, tmp_path):
    """Otherwise the set from another hospital, which nobody learns from, has no page."""
    ingest(tiny_pngs, tmp_path / "set", modality="xray", split="train", progress=False)
    for name in ("datasheet.json", "dataset_info.json"):
        file = tmp_path / "set" / name
        file.write_text(file.read_text().replace('"train"', '"test"'))
    (shard,) = (tmp_path / "set").glob("scans-train*")
    shard.rename(shard.with_name(shard.name.replace("-train", "-test")))
    page.write(tmp_path / "report.html", datasets=[tmp_path / "set"])
    assert "From the test split, chosen" in (tmp_path / "report.html").read_text()


def test_a_pretraining_without_a_checkpoint_is_still_a_page(home, monkeypatch):
    """Otherwise nothing can be seen of a run of hours before its first checkpoint, nor of those beside it."""
    folder = home()
    monkeypatch.setattr(reconstructions, "triples", real_triples)
    page.write(folder / "report.html", runs=[folder / "mae", folder / "tuned"])
    text = (folder / "report.html").read_text()
    assert "what it saw" not in text and "100 steps of 8 scans" in text and "0.812" in text


@pytest.mark.parametrize("name", ["mae", "tuned"])
def test_what_weights_from_a_file_do_not_tell_is_not_said(home, name):
    """Otherwise they are said to be trained for 0 steps on 0 scans."""
    folder = home()
    run = folder / name
    held = durable.read_json(run / "config.json")
    del held["config"]["train"]
    held["config"]["data"] = {"path": ""}
    durable.write_json(run / "config.json", held)
    durable.write_json(run / "dataset.json", {"format": 1, "task": None, "content_hash": "00" * 32})
    (run / "metrics.csv").unlink()
    page.write(folder / "report.html", runs=[run])
    text = (folder / "report.html").read_text()
    assert not re.search(r"\b0 (steps|scans)|<dt>trained|trained 0|learned from \d|<dt>learned", text)
    assert name == "tuned" or "Mae learned from scans without labels." in text


def test_what_was_left_out_of_pretraining_is_not_said_to_be_learned_from(home):
    """Otherwise copies of test scans, which pretraining leaves out, are counted among what it saw."""
    folder = home(learned_from=17)
    page.write(folder / "report.html", runs=[folder / "mae"])
    text = (folder / "report.html").read_text()
    assert text.count("17 scans") == 2 and "learned from 17 scans without labels" in text


@pytest.mark.parametrize("objective", ["mae", "simmim", "ijepa", "self_distil"])
def test_a_pretraining_of_every_kind_has_a_section(home, objective):
    """Otherwise a study of hours ends in a traceback when its page is written."""
    folder = home()
    shipped = resolve(config.load(str(Path(__file__).parents[2] / "configs" / f"pretrain_{objective}.py")))
    file = folder / "mae" / "config.json"
    held = durable.read_json(file)
    held["config"]["objective"] = shipped.objective.to_dict()
    durable.write_json(file, held)
    page.write(folder / "report.html", runs=[folder / "mae"])
    text = (folder / "report.html").read_text()
    hidden = {"mae": "75%", "simmim": "60%", "self_distil": "10 to 50%"}.get(objective)
    assert hidden is None or f"{hidden} of the patches" in text
    assert ("fill in patches that were hidden" in text) == (objective in ("mae", "simmim"))
    assert ("measured on hidden patches alone" in text) == (objective in ("mae", "simmim"))


def test_volumes_and_unlabelled_scans(home):
    """Otherwise pages of 3D or unlabelled datasets fail."""
    folder = home(
        size=[6, 16, 12], spacing=[3.0, 0.5, 0.5], task=None, classes=None, class_counts={}, patients={}
    )
    page.write(folder / "report.html", datasets=[folder / "data"])
    text = (folder / "report.html").read_text()
    assert "the middle slice" in text and "sample scans" in text and "6 × 16 × 12" in text


def test_kind_tells_folders_apart(home, tmp_path):
    """Otherwise `vitmed report` draws a study as a run, or says nothing useful of a wrong folder."""
    folder = home()
    assert [gather.kind(folder / n) for n in ("mae", "study", "data")] == ["run", "study", "dataset"]
    with pytest.raises(InputError, match="does not exist"):
        gather.kind(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run, no study and no dataset"):
        gather.kind(tmp_path / "empty")


def test_verb_writes_and_answers(home, capsys):
    """Otherwise the command line does not reach the page."""
    folder = home()
    assert main(["report", str(folder / "study"), "--out", str(folder / "out" / "r.html"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert answer["studies"] == 1 and answer["datasets"] == 1
    assert (folder / "out" / "r.html").stat().st_size > 20_000
    assert main(["report", str(folder / "nothing"), "--out", str(folder / "r.html")]) == 2
    assert verb.HELP


def test_a_study_in_which_nothing_is_defined_is_still_a_page(home):
    """A few scans, one class in the test split: the page ended as a fault of vitmed, after all the training."""
    folder = home()
    path = folder / "study" / "table.json"
    table = json.loads(path.read_text())
    for row in table["rows"]:
        row["metrics"] = {
            m: {**v, "value": None, "low": None, "high": None} for m, v in row["metrics"].items()
        }
    table["comparisons"] = []
    path.write_text(json.dumps(table))
    page.write(folder / "report.html", studies=[folder / "study"])
    assert "Not defined in any cell" in (folder / "report.html").read_text()


def test_all_labels_are_not_called_few(home):
    """Otherwise a study with all labels speaks of draws of which scans carry them, where there is nothing to draw."""
    folder = home()
    path = folder / "study" / "table.json"
    page.write(folder / "report.html", studies=[folder / "study"])
    assert "Learning from few labels: " in (folder / "report.html").read_text()
    table = json.loads(path.read_text())
    renamed = dict(zip(table["budgets"], [1.0] * len(table["budgets"])))
    table["budgets"] = [1.0]
    for row in (*table["rows"], *table["comparisons"]):
        row["budget"] = renamed[row["budget"]]
    path.write_text(json.dumps(table))
    page.write(folder / "report.html", studies=[folder / "study"])
    text = (folder / "report.html").read_text()
    assert "few labels" not in text and "fine-tuned with all labels, by 3 seeds" in text


def test_one_draw_is_said_to_be_one(home):
    """Otherwise a difference that nobody could have shown reads as one that was looked for and not found."""
    folder = home()
    path = folder / "study" / "table.json"
    table = json.loads(path.read_text())
    table["draws"][-1] = 1
    for compared in table["comparisons"]:
        if compared["budget"] == table["budgets"][-1]:
            compared["favours"] = None
    path.write_text(json.dumps(table))
    page.write(folder / "report.html", studies=[folder / "study"])
    text = (folder / "report.html").read_text()
    assert "one draw of the labels, which does not tell what another would give" in text
    assert "1 to 3 draws" in text and "that these scans can show" not in text[: text.index("</header>")]


def test_a_study_with_baselines_and_a_margin(home):
    """Otherwise the page of the newer studies names no baseline, or marks an unproven difference as real."""
    folder = home()
    file = folder / "study" / "table.json"
    table = json.loads(file.read_text())
    base = next(c for c in table["comparisons"] if c["arm"] == "scratch" and c["metric"] == "auroc")
    first = {"first": "pretrained", "first_label": "Pretrained ViT", "second": "scratch"}
    first |= {"second_label": "ViT from scratch", "arm": "pretrained", "label": "Pretrained ViT"}
    made = []
    for budget, verdict, other in (
        (0.01, "better", 0.01),
        (0.1, "not worse", 0.1),
        (1.0, "open", 1.0),
        (0.1, "worse", 1.0),
    ):
        own = (
            base
            | first
            | {"budget": budget, "first_budget": budget, "second_budget": other, "verdict": verdict}
        )
        favours = {"better": "pretrained", "worse": "scratch"}.get(verdict)
        own |= {
            "favours": favours,
            "main": budget == other,
            "sentence": f"It is {verdict} with {budget:g} and {other:g}.",
        }
        made.append(own)
    table |= {"reference": "", "comparisons": made, "margin": 0.01, "minus": "minus the best baseline"}
    for row in table["rows"]:
        row |= {"standing": "baseline", "labels_beside": 524, "settings": ["optim.lr=0.001"]}
    file.write_text(json.dumps(table))
    page.write(folder / "report.html", studies=[folder / "study"])
    text = (folder / "report.html").read_text()
    body = text[text.index('id="comparison"') : text.index('id="provenance"')]
    for verdict, marked in (("better", "real"), ("not worse", "within"), ("open", ""), ("worse", "against")):
        assert f'<p class="finding {marked}">It is {verdict} with' in body
    assert "minus the best baseline,<br>AUROC" in body and "+ 524 of validation" in body
    assert "chose optim.lr=0.001" in body and "the margin of 0.010" in body and 'class="margin"' in body
    assert "Across budgets" in body and "Pretrained ViT, 10% \N{MINUS SIGN} ViT from scratch, All" in body
    assert "It is better with 0.01 and 0.01." in text[: text.index('id="comparison"')], "the lead says it too"


@pytest.mark.parametrize(
    ("favours", "holds", "said"),
    [
        ("mae", True, "a real gain over Scratch."),
        ("mae", None, "a real gain over Scratch."),
        ("mae", False, "a gain over Scratch, which correction for several comparisons leaves unsettled."),
        ("scratch", True, "really worse than Scratch."),
        ("scratch", False, "worse than Scratch, which correction for several comparisons leaves unsettled."),
        (None, False, "no difference from Scratch that these scans can show."),
    ],
)
def test_the_opening_claims_no_more_than_the_comparisons(favours, holds, said):
    """Else the first sentence of a page calls real what the table below it calls unsettled."""
    row = {"budget": 0.1, "metric": "auroc", "label": "Scratch", "favours": favours, "holds": holds}
    study = {"budgets": [0.1], "draws": [3], "metrics": ["auroc"], "reference": "mae", "comparisons": [row]}
    assert findings._verdict(study, 0.1) == said


def test_the_opening_of_several_arms_claims_no_more_either():
    """Else "is better" stands above a table that says correction leaves it unsettled."""
    given = {"budget": 10, "labels": 10, "reference_label": "Fine-tuned"}
    found = [
        {"label": "A", "verdict": "better", "holds": False, **given},
        {"label": "B", "verdict": "better", "holds": True, **given},
        {"label": "C", "verdict": "open", "holds": False, **given},
    ]
    text = findings._against_best(found)
    assert (
        "B is better; A is better, which correction for several comparisons leaves unsettled; C is not settled."
        in text
    )
