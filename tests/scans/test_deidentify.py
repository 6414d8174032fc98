"""What a header says of the person is taken from raw bytes, and must be what pydicom's own objects say."""

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from vitmed.scans import deidentify, dicom_header

HARMLESS = {"Manufacturer", "ManufacturerModelName"}
TELLING = set("PN LO SH ST LT UT UC UI DA DT TM AE AS UR".split())


def by_objects(path):
    """The same with every element converted by pydicom."""
    data = pydicom.dcmread(path, stop_before_pixels=True)
    found = set()
    for element in (*data.iterall(), *data.file_meta):
        if element.VR in TELLING and element.keyword not in HARMLESS:
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            texts = {str(v).strip() for v in values if v is not None}
            if element.VR == "PN":
                texts |= {p for t in texts for p in t.replace("=", "^").replace(" ", "^").split("^")}
            found |= {t for t in texts if len(t) >= 2 and not t.startswith("1.2.840.10008.")}
    return tuple(sorted(found))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO_IR 100", ["", "ISO 2022 IR 87"]])
def test_raw_bytes_tell_what_objects_tell(tmp_path, syntax, charset):
    """A value that is missed stays in the path of a scan, and tells who it is."""
    data = Dataset()
    data.SpecificCharacterSet = charset
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4"
    data.PatientID, data.OtherPatientIDsSequence = " P 17 ", [Dataset(), Dataset()]
    data.OtherPatientIDsSequence[1].PatientID = "nested-99"
    data.PatientName = (
        "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"
        if charset != "ISO_IR 100"
        else "M\u00fcller^J\u00f6rg Ren\u00e9"
    )
    data.PatientComments = "a \\ b"
    data.OtherPatientNames = ["Foo^Bar", "Baz"]
    data.StudyDate, data.StudyTime, data.AcquisitionDateTime = "20200102", "1122.5", ""
    data.Manufacturer, data.ImageType, data.InstanceNumber = "Maker", ["ORIGINAL", "PRIMARY"], 7
    data.BurnedInAnnotation, data.Rows, data.Columns = "YES", 4, 4
    data.add_new(0x00110010, "LO", "MAKER OF THINGS")
    data.add_new(0x00111001, "LO", "private words")
    data.add_new(0x00111002, "UN", b"unknown")
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.ImplementationVersionName = "SITE 7"
    path = str(tmp_path / "a.dcm")
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    expected = by_objects(path)
    assert {"nested-99", "P 17", "SITE 7", "Foo", "20200102"} <= {*expected}
    assert dicom_header.said(path) == deidentify.Header(expected, True)


def test_a_real_header_too(shared_data):
    for path in sorted((shared_data / "t1_head_dicom").glob("*.dcm"))[:3]:
        assert dicom_header.said(str(path)).values == by_objects(path)


def test_values_are_found_in_the_parts_of_a_path_but_not_across_them(tmp_path):
    header = deidentify.Header(("Quixote", "17", "ab12cd", "nowhere"), None)
    found = header.in_path("/data/don_quixote/x17-ab/12cd.dcm").values
    assert found == ("Quixote", "17")


def test_a_header_is_read_as_pydicom_reads_it(shared_data):
    for path in sorted((shared_data / "t1_head_dicom").glob("*.dcm"))[:3]:
        assert dicom_header.header(str(path)) == pydicom.dcmread(path, stop_before_pixels=True)


@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:The value length")
def test_remarks_on_odd_values_are_not_told(tmp_path, caplog, capfd):
    """Otherwise a name that is too long for its field stands in the log of a cluster."""
    file = tmp_path / "odd.dcm"
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = pydicom.uid.MRImageStorage, "1.2.3"
    data.PatientID, data.Rows = "7", 1
    data.add(
        pydicom.DataElement("AccessionNumber", "SH", "SECRET" * 12, validation_mode=pydicom.config.IGNORE)
    )
    data.add(pydicom.DataElement("StudyInstanceUID", "UI", "SECRET-1", validation_mode=pydicom.config.IGNORE))
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(file, enforce_file_format=True)
    assert "SECRET" * 12 in dicom_header.said(str(file)).values
    deidentify.person(dicom_header.header(str(file)))
    assert "SECRET" not in caplog.text + "".join(capfd.readouterr())
