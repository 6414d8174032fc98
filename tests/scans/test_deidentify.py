"""What a header says of a person is found, and not repeated."""

import pydicom

from vitmed.scans import deidentify


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
    assert "SECRET" * 12 in deidentify.look(str(file)).values
    deidentify.person(str(file))
    assert "SECRET" not in caplog.text + "".join(capfd.readouterr())
