"""What a header says of size and spacing is what the reader then gives."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from vitmed.scans.find import find
from vitmed.scans.how import How
from vitmed.scans.measure import measure
from vitmed.scans.read import read
from vitmed.scans.scan import Refused, Source

OBLIQUE = np.array([[0, 1.5, 0.1, 3], [-0.7, 0, 0, 4], [0, 0.2, -3, 5], [0, 0, 0, 1.0]])


def same(source):
    scan = read(source)
    size, spacing = measure(source)
    assert size == scan.size
    if scan.spacing is None:
        assert spacing is None
    else:
        np.testing.assert_allclose(spacing, scan.spacing, rtol=1e-6)


def test_measuring_agrees_with_reading(tmp_path, rng, series, dicom):
    """Otherwise a spacing or size is proposed on other axes than the scans are brought to."""
    pixels = rng.integers(0, 255, (5, 6, 7)).astype(np.int16)
    nib.Nifti1Image(pixels, OBLIQUE).to_filename(tmp_path / "a.nii.gz")
    nib.Nifti1Image(np.stack([pixels] * 2, -1), OBLIQUE).to_filename(tmp_path / "b.nii")
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing((0.5, 2, 3))
    image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    sitk.WriteImage(image, str(tmp_path / "c.mha"))
    sitk.WriteImage(image[:, :, 0], str(tmp_path / "d.nrrd"))
    Image.fromarray(pixels[0].astype(np.uint8)).save(tmp_path / "e.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[0].astype(np.uint8)).save(tmp_path / "f.jpg", exif=exif)
    np.save(tmp_path / "g.npy", pixels)
    series(pixels.astype(np.uint16), spacing=3.0)
    (tmp_path / "one").mkdir()
    dicom(tmp_path / "one" / "x.dcm", pixels[0].astype(np.uint16), series="7", Modality="MR")
    found, refused = find(tmp_path, how=How(frames="channels"))
    assert len(found) == 9 and not refused
    for source in found:
        same(source)
    first = Source("x", "channels", (str(tmp_path / "a.nii.gz"),) * 2)
    same(first)


def test_a_header_with_a_fault_is_refused(tmp_path):
    """Otherwise one broken file ends the planning of a set."""
    for name in ("a.nii", "b.mha", "c.png"):
        (tmp_path / name).write_bytes(b"nonsense")
        (source,) = find(tmp_path / name)[0]
        with pytest.raises(Refused):
            measure(source)
