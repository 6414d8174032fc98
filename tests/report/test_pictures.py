"""Scans as pictures: what a reader sees is what was stored."""

import base64
import io

import numpy as np
from PIL import Image

from vitmed.report import pictures


def test_window_and_scale():
    """Otherwise pictures are black or washed out for HU, whose values are far from 0..1."""
    stream = {
        "image": np.array([-1000, 0, 1000, 3000], np.int16).reshape(1, 2, 2, 1),
        "scale": np.ones((1, 1)),
        "offset": np.zeros((1, 1)),
    }
    assert pictures.displayed(stream, (-1000, 1000)).ravel().tolist() == [0, 0.5, 1, 1]


def test_volumes_show_their_middle_slice():
    """Otherwise a volume shows its first slice, which is mostly air."""
    volume = np.zeros((3, 112, 112, 1))
    volume[1] = 1.0
    assert np.asarray(pictures.picture(volume)).min() == 255


def test_hidden_patches_are_painted():
    """Otherwise a reader cannot tell what the model saw from a dark part of the scan."""
    mask = np.zeros((112, 120))
    mask[:, :60] = 1
    pixels = np.asarray(pictures.picture(np.zeros((112, 120, 1)), mask))
    assert tuple(pixels[0, 0]) == pictures.HIDDEN and tuple(pixels[0, 119]) == (0, 0, 0)


def test_small_scans_are_enlarged_exactly():
    """Otherwise a 28 x 28 scan is blurred by interpolation and looks like better data than it is."""
    image = np.zeros((28, 28, 1))
    image[3, 5] = 1.0
    pixels = np.asarray(pictures.picture(image))[..., 0]
    assert pixels.shape == (112, 112) and (pixels == 255).sum() == 16 and set(np.unique(pixels)) == {0, 255}


def test_colour_is_kept_and_grey_is_small():
    """Otherwise colour scans turn grey, or grey pages are three times as large as they need be."""
    colour = np.zeros((112, 112, 3))
    colour[..., 0] = 1.0

    def back(image):
        return Image.open(
            io.BytesIO(base64.b64decode(pictures.data_uri(pictures.picture(image)).split(",")[1]))
        )

    assert back(colour).mode == "RGB" and back(colour).getpixel((0, 0)) == (255, 0, 0)
    assert back(np.zeros((112, 112, 1))).mode == "L"
