"""Nothing that tells who a patient is may reach the dataset, its datasheet, its page or the log."""

import datetime
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from vitmed.cli.main import main
from vitmed.data import exposed, pseudonyms
from vitmed.data.dataset import Dataset as Opened
from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.scans.scan import Scan

TABLE = Path(__file__).parents[1] / "goldens" / "ps3_15_table_e1_1.txt"


def tags():
    """Tags of PS3.15 Table E.1-1; of repeating and private groups the first."""
    for line in TABLE.read_text().splitlines():
        if not line.startswith("#"):
            text = line.split()[0].replace("50xxxxxx", "50000030").replace("60xx", "6000")
            yield 0x00111001 if text.startswith("gggg") else int(text, 16)


def planted(vr, n):
    """A value of a VR that is found nowhere by chance, and the text of it to look for (None: cannot be text)."""
    word = f"QX{n:04}ZW"
    day = (datetime.date(1901, 1, 1) + datetime.timedelta(n)).strftime("%Y%m%d")
    match vr:
        case "PN":
            return f"{word}^Anna", word
        case "UI":
            return f"1.2.826.0.1.{7310000 + n}", str(7310000 + n)
        case "DA":
            return day, day
        case "TM":
            return f"1122{n % 60:02}.{731000 + n}", str(731000 + n)
        case "DT":
            return f"{day}112233.{731000 + n}", day
        case "AS":
            return f"{n % 90 + 10:03}Y", None  # four letters, met by chance in any file
        case "DS" | "IS":
            return str(7310000 + n), str(7310000 + n)
        case "OB" | "OW" | "UN" | "OF" | "OD":
            return word.encode(), word
        case "US" | "SS" | "UL" | "SL" | "FL" | "FD" | "AT":
            return {"AT": 0x00100010}.get(vr, 731), None
        case "SQ":
            item = Dataset()
            item.PatientID, item.PatientComments = word, f"see {word}"
            return [item], word
    return word, word


def plant(path, position=0.0, **more):
    """Writes a CT slice whose header holds every attribute of the table; returns what to look for, by tag."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    words = {}
    for n, tag in enumerate(tags()):
        if tag >> 16 == 0:  # commands between machines; no file holds them
            continue
        if tag == 0x00111001:
            data.add_new(0x00110010, "LO", "QXMAKERZW")
            data.add_new(tag, "LO", f"QX{n:04}ZW")
            words[tag] = f"QX{n:04}ZW"
            continue
        try:
            vr = dictionary_VR(tag).split(" or ")[0]
        except KeyError:
            vr = "LO"  # younger than this pydicom, which then holds it as it is told
        value, word = planted(vr, n)
        (meta if tag >> 16 == 2 else data).add_new(tag, vr, value)
        if word is not None:
            words[tag] = word
    data.Modality, data.SOPClassUID = "CT", meta.MediaStorageSOPClassUID
    data.Rows = data.Columns = 16
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelSpacing, data.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, position]
    rng = np.random.Generator(np.random.Philox(key=int(position)))
    data.PixelData = rng.integers(-1000, 1000, (16, 16)).astype(np.int16).tobytes()
    for keyword, value in more.items():
        setattr(data, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return words


def everything(dataset):
    """All bytes of a dataset's files, and of its records as they are when read."""
    found = {str(f.relative_to(dataset)): f.read_bytes() for f in dataset.rglob("*") if f.is_file()}
    for shard in dataset.glob("*array_record*"):
        source = ArrayRecordDataSource(str(shard))
        found[f"records of {shard.name}"] = b"\n".join(source[i] for i in range(len(source)))
    return found | {f"name {n}": n.encode() for n in list(found)}


def test_no_attribute_of_the_basic_profile_gets_through(tmp_path, capsys):
    """Otherwise a dataset that is shared tells whose scans it holds."""
    first = plant(tmp_path / "x" / "probe.dcm")
    header = pydicom.dcmread(tmp_path / "x" / "probe.dcm")
    held = [tag for tag in first if tag in header or tag in header.file_meta]
    assert len(held) > 550, "the table was not planted"
    name, number, uid = (first[keyword] for keyword in (0x00100010, 0x00100020, 0x00080018))
    (tmp_path / "x" / "probe.dcm").unlink()
    # The source, its folders and its files are called by what the header says, as exports are.
    source = tmp_path / "x" / f"{name}_export"
    for k in range(3):
        plant(source / number / f"scan of {name}" / f"IM_{uid}_{k}.dcm", k)
    # Some are refused: pixels cut off, a header cut off, another kind of object.
    cut = source / f"cut {number}" / f"{name}.dcm"
    plant(cut, 9, SeriesInstanceUID=f"{first[0x0020000E]}.1")
    cut.write_bytes(cut.read_bytes()[:-100])
    short = source / f"short {number}.dcm"
    short.write_bytes(cut.read_bytes()[:1000])
    plant(source / f"{number}.PR.dcm", Modality="PR")
    out = tmp_path / "out"
    assert main(["ingest", str(source), "--out", str(out), "--key", str(tmp_path / "key")]) == 0
    log = capsys.readouterr()
    assert main(["inspect", str(out), "--html", str(out / "again.html")]) == 0
    more = capsys.readouterr()
    outputs = everything(out) | {
        "log": "".join((log.out, log.err, more.out, more.err)).replace(str(tmp_path), "").encode()
    }
    leaks = {
        (keyword_for_tag(tag) or hex(tag), where)
        for tag, word in first.items()
        for where, content in outputs.items()
        if word.encode() in content
    }
    assert leaks == set()
    sheet = read(out)
    assert sum(sheet["examples"].values()) == 1 and sum(sheet["refused"].values()) == 3
    assert sheet["privacy"]["pseudonyms"] == "HMAC-SHA256"
    assert str(tmp_path / "key") in log.out and "made now" in log.out.replace("\n", " ")


@pytest.mark.parametrize("rule", [None, 'format = 1\ndescription = ["lung"]'])
def test_a_series_that_is_refused_as_a_whole_says_nothing_of_its_patient(tmp_path, capsys, rule):
    """Otherwise folders called by people are listed by them, with ids and descriptions, where their series are refused."""
    for k in range(3):
        plant(tmp_path / "x" / "good" / f"{k}.dcm", k, SeriesInstanceUID="1.2.1", SeriesDescription="lung")
        same = {"SeriesInstanceUID": "1.2.2", "StudyInstanceUID": "1.2.9", "PatientName": "Zorkmund^Alice"}
        if rule is None:  # two people in one series
            plant(tmp_path / "x" / "Zorkmund_Alice" / f"{k}.dcm", k, PatientID=f"MUNDO{k % 2}", **same)
        else:  # a series that the rule does not take
            named = {"SeriesDescription": "Zorkmund Alice thorax"}
            plant(
                tmp_path / "x" / "Zorkmund_Alice" / "s1" / f"{k}.dcm", k, PatientID="MUNDO1", **same, **named
            )
    command = ["ingest", str(tmp_path / "x"), "--out", str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    if rule is not None:
        (tmp_path / "rule.toml").write_text(rule)
        command += ["--series", str(tmp_path / "rule.toml")]
    assert main(command) == 0
    log = capsys.readouterr()
    found = everything(tmp_path / "out") | {"log": (log.out + log.err).encode()}
    assert sum(read(tmp_path / "out")["refused"].values()) == 1
    for where, content in found.items():
        assert not any(word in content for word in (b"Zorkmund", b"Alice", b"MUNDO")), where


def test_members_of_an_archive_that_are_refused_are_not_named(tmp_path, capsys):
    """Otherwise a zip as hospitals export it, folders called by people, lists those whose files were left out."""
    for k in range(3):
        plant(tmp_path / "x" / "good" / f"{k}.dcm", k, SeriesInstanceUID="1.2.1")
    plant(tmp_path / "x" / "Zorkmund_Alice" / "IM1", Modality="SR", PatientName="Zorkmund^Alice")
    long = "L" * 300 + ".png"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in sorted((tmp_path / "x").rglob("*")):
            archive.write(file, file.relative_to(tmp_path / "x"))
        archive.writestr(f"Zorkmund_Alice/{long}", b"x")
    command = [
        "ingest",
        str(tmp_path / "x.zip"),
        "--out",
        str(tmp_path / "out"),
        "--key",
        str(tmp_path / "key"),
    ]
    assert main(command) == 0
    log = capsys.readouterr()
    found = everything(tmp_path / "out") | {"log": (log.out + log.err).encode()}
    assert sum(read(tmp_path / "out")["refused"].values()) == 2
    assert not [where for where, content in found.items() if b"Zorkmund" in content]


@pytest.mark.parametrize(
    "called", ["in/Zorkmund_Alice.zip", "Zorkmund_Alice.zip", "in/Zorkmund_Alice/export.zip"]
)
def test_an_archive_that_is_called_by_a_person_is_not_named(called, tmp_path):
    """Otherwise the id of each scan in it, or the dataset's name, says who it is of."""
    archive = tmp_path / called
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for k in range(2):
            plant(tmp_path / "x" / f"{k}.dcm", k, PatientName="Zorkmund^Alice", SeriesInstanceUID="1.2.1")
            packed.write(tmp_path / "x" / f"{k}.dcm", f"{k}.dcm")
    source = tmp_path / "in" if called.startswith("in/") else archive
    made = ingest(source, tmp_path / "out", progress=False, key=tmp_path / "key")
    assert sum(made["examples"].values()) == 1
    assert not [where for where, content in everything(tmp_path / "out").items() if b"Zorkmund" in content]


def test_a_scan_of_somebody_else_does_not_tell_whose_folder_it_lies_in(tmp_path):
    """Otherwise a stray scan of B in the folder of A carries A's name into its id."""
    for k in range(2):
        plant(
            tmp_path / "x" / "Zorkmund_Alice" / f"{k}.dcm",
            k,
            PatientName="Zorkmund^Alice",
            SeriesInstanceUID="1.2.1",
        )
        other = {"PatientName": "B^C", "PatientID": "B77", "SeriesInstanceUID": "1.2.2"}
        plant(tmp_path / "x" / "Zorkmund_Alice" / "stray" / f"{k}.dcm", k, **other)
    (tmp_path / "x" / "Zorkmund_Alice" / "note.dat").write_text("no scan")
    made = ingest(tmp_path / "x", tmp_path / "out", progress=False, key=tmp_path / "key")
    assert sum(made["examples"].values()) == 2 and made["refused"] != {}
    assert not [where for where, content in everything(tmp_path / "out").items() if b"Zorkmund" in content]


def test_an_id_is_searched_for_what_the_file_that_it_is_made_of_says(tmp_path):
    """Otherwise a series that begins with another file, or the second of its stacks, shows the UID of an instance."""
    for series in range(2):
        for k in range(4):
            for echo in range(2 - series):
                uid = f"1.2.826.0.1.77{series}{echo}{9 - k}1"  # the last in place is the first by name
                named = {
                    "SOPInstanceUID": uid,
                    "SeriesInstanceUID": f"1.2.{series}",
                    "EchoNumbers": str(echo),
                }
                plant(tmp_path / "x" / "flat" / f"{uid}.dcm", k, Modality="MR", **named)
    made = ingest(tmp_path / "x", tmp_path / "out", modality="mr", progress=False, key=tmp_path / "key")
    assert sum(made["examples"].values()) == 3
    assert not [where for where, content in everything(tmp_path / "out").items() if b"826.0.1.77" in content]


def test_a_folder_of_which_nothing_can_be_used_does_not_say_whose_it_is(tmp_path, capsys):
    for k in range(3):
        named = {"SeriesInstanceUID": "1.2.2", "PatientName": "Zebulonxx^Ann", "PatientID": f"ANN{k}"}
        plant(tmp_path / "x" / "Zebulonxx_Ann" / f"{k}.dcm", k, **named)
    command = ["ingest", str(tmp_path / "x"), "--out", str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "several patients in one series" in told and "Zebulonxx" not in told and "ANN" not in told


def test_an_exposed_value_is_found_by_the_search_above(tmp_path):
    """Otherwise the test above passes because it cannot see into the records."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "QX0042ZW.png")
    ingest(tmp_path, tmp_path / "out", progress=False)
    found = everything(tmp_path / "out")
    assert any(b"QX0042ZW" in v for k, v in found.items() if k.startswith("records"))


def test_pseudonyms_are_one_to_one_and_need_the_key(tmp_path):
    """Otherwise patients are mixed up, or anybody with a list of numbers can name them."""
    mine, same, other = (pseudonyms.open_key(tmp_path / n) for n in ("a", "a", "b"))
    assert mine.made and not same.made and mine.name == same.name != other.name
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o600
    names = {mine.hide("patient", str(k)) for k in range(1000)}
    assert len(names) == 1000 and mine.hide("patient", "7") == same.hide("patient", "7")
    assert mine.hide("patient", "7") not in {other.hide("patient", "7"), mine.hide("site", "7")}
    (tmp_path / "c").write_text("secret")
    with pytest.raises(InputError, match="c is not a key"):
        pseudonyms.open_key(tmp_path / "c")
    with pytest.raises(InputError, match="none cannot be read"):
        pseudonyms.open_key(tmp_path / "none", make=False)


@pytest.mark.parametrize(
    ("text", "values", "told"),
    [
        ("DOE_JOHN", ["Doe"], True),
        ("doe-john-1970", ["DOE^JOHN"], True),
        ("1.2.3.4.dcm", ["1.2.3.4"], True),
        ("p01_left.png", ["01"], True),
        ("2001.png", ["01"], False),
        ("scan.png", [""], False),
        ("malignant (145).png", ["DOE", "19700101"], False),
        ("Mu\u0308ller_1.dcm", ["M\u00fcller^Ed", "M\u00fcller"], True),
    ],
)
def test_a_value_is_seen_in_a_name_however_it_is_written(text, values, told):
    """Otherwise a file's name tells what its header may not, or every file is renamed."""
    assert pseudonyms.shows(text, values) is told


def ultrasound(text):
    """A sector on black, with or without a line of strokes above it."""
    image = np.zeros((200, 300, 1), np.uint8)
    y, x = np.mgrid[:200, :300]
    sector = (np.hypot(y - 20, x - 150) < 170) & (np.abs(x - 150) < 0.6 * (y - 20))
    rng = np.random.Generator(np.random.Philox(key=1))
    image[sector, 0] = rng.rayleigh(60, sector.sum()).clip(0, 255)
    if text:
        image[6:15, 20:120:6, 0] = 250
    return image


def test_burned_in_text_is_noticed():
    """Otherwise names written by the machine are shared unnoticed, or every scan is suspected."""
    assert exposed.band(ultrasound(True)) and not exposed.band(ultrasound(False))
    assert exposed.of(Scan(ultrasound(True)), "ultrasound", None) == (exposed.TEXT,)
    assert exposed.of(Scan(ultrasound(True)), "ultrasound", False) == (), "the header says that there is none"
    assert exposed.of(Scan(ultrasound(False)), "xray", True) == (exposed.TEXT,), (
        "the header says that there is"
    )


def head(face):
    """An ellipsoid head of 180 x 200 x 150 mm (S, P, L) with a nose and a chin, or cut off in front."""
    z, y, x = np.mgrid[-100:100:4, -110:110:4, -90:90:4].astype(np.float32)
    tissue = (z / 90) ** 2 + (y / 100) ** 2 + (x / 75) ** 2 < 1
    if face:
        tissue |= (np.abs(x) < 45) & (z < 10) & (z > -90) & (y > -100) & (y < -20)
    else:
        tissue &= ~((z < 10) & (y < -40))
    return Scan(
        (tissue * 300).astype(np.int16)[..., None], spacing=(4.0, 4.0, 4.0), affine=np.diag([4.0, 4, 4, 1])
    )


def test_a_face_is_noticed():
    """Otherwise a rendering of the head shows who it is."""
    assert exposed.of(head(True), "mr", None) == (exposed.FACE,)
    assert exposed.of(head(False), "mr", None) == ()
    assert exposed.of(head(True), "ct", None) == (), "faces are looked for in MR alone"


def test_faces_of_real_heads(shared_data, tmp_path):
    """Otherwise the sign works on drawings alone."""
    ingest(
        shared_data / "t1_head_dicom", tmp_path / "t1", spacing=(2, 2, 2), size=(96, 96, 96), progress=False
    )
    assert len(read(tmp_path / "t1")["privacy"]["face"]) == 1
    hippocampus = shared_data / "hippocampus" / "images"
    few = sorted(hippocampus.glob("*.nii.gz"))[:3]
    (tmp_path / "h").mkdir()
    for file in few:
        (tmp_path / "h" / file.name).symlink_to(file)
    ingest(
        tmp_path / "h", tmp_path / "hd", modality="MR", spacing=(1, 1, 1), size=(32, 48, 40), progress=False
    )
    assert read(tmp_path / "hd")["privacy"]["face"] == []


def test_a_patient_in_a_path_is_hidden_and_simulated_ones_are_not(tmp_path):
    """Otherwise the pseudonym stands beside the name it hides; phantoms have nobody to hide."""
    (tmp_path / "s").mkdir()
    for k in range(3):
        Image.fromarray(np.full((8, 8), k, np.uint8)).save(tmp_path / "s" / f"mueller{k}_ap.png")
    for simulated in (False, True):
        if simulated:
            (tmp_path / "s" / "phantoms.json").write_text("{}")
        out = tmp_path / f"out{simulated}"
        ingest(tmp_path / "s", out, patient_pattern=r"mueller\d", key=tmp_path / "key", progress=False)
        opened = Opened.open(out)
        shown = "mueller" in "".join(opened.ids("train") + opened.patients("train"))
        assert shown is simulated
        assert all(i.endswith(".png") for i in opened.ids("train"))


def test_a_hospital_of_the_header_is_a_pseudonym_and_can_be_held_out(tmp_path):
    """Otherwise the institution is in every record, or nobody can test on it any more."""
    for k in range(12):
        name = ("Nordklinik", "Westklinik")[k % 2]
        uid = {"SeriesInstanceUID": f"1.2.3.{k}", "PatientID": f"p{k}", "InstitutionName": name}
        plant(tmp_path / "s" / f"{k:02}.dcm", k, **uid)
    out = tmp_path / "out"
    made = ingest(tmp_path / "s", out, split="site:Westklinik", key=tmp_path / "key", progress=False)
    assert made["examples"]["test"] == 6
    west = set(Opened.open(out).sites("test"))
    assert len(west) == 1 and not west & set(Opened.open(out).sites("train"))
    assert not any(b"klinik" in content for content in everything(out).values())
