"""What tissues are to each modality. Round textbook values at 1.5 T, about 60 keV and 7 MHz.

Bottomley et al., Med. Phys. 11 (1984) and Stanisz et al., MRM 54 (2005) for relaxation; Duck, "Physical
Properties of Tissue" (1990), for ultrasound.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Tissue:
    """Hounsfield units; proton density (water 1), T1 and T2 in ms; echo strength in dB of glandular tissue's,
    and attenuation in dB/cm/MHz."""

    hu: float
    density: float = 0.0
    t1: float = 1000.0
    t2: float = 10.0
    echo: float = 0.0
    attenuation: float = 0.8

    def attenuation_of_water(self) -> float:
        """Linear X-ray attenuation in units of water's."""
        return 1 + self.hu / 1000

    def towards(self, other: "Tissue", fraction: float) -> "Tissue":
        """The mixture with `fraction` of `other`."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Tissue(*(a + fraction * (b - a) for a, b in zip(mine, theirs, strict=True)))


AIR = Tissue(-1000, 0, 1000, 10, -60, 0)
LUNG = Tissue(-790, 0.2, 1200, 30)
SOFT = Tissue(40, 0.75, 900, 50, -7, 1.0)
FAT = Tissue(-90, 0.9, 250, 70, -11, 0.6)
BLOOD = Tissue(50, 0.8, 1400, 150)
RIB = Tissue(750, 0.05, 250, 5, 12, 9.0)
SPINE = Tissue(250, 0.2, 500, 50)
METAL = Tissue(6000)
GREY = Tissue(38, 0.80, 950, 100)
WHITE = Tissue(30, 0.70, 600, 80)
FLUID = Tissue(5, 1.0, 4000, 2000, -40, 0.05)
GLAND = Tissue(35, 0.7, 800, 45, 0, 0.8)
SKIN = Tissue(50, 0.6, 800, 40, 6, 1.2)

TUMOUR = Tissue(40, 0.85, 1200, 150)  # in lung: a solid nodule; in white matter: bright on T2
CARCINOMA = Tissue(45, 0.8, 900, 70, -16, 1.7)  # in gland: dark, and casts a shadow
CALCIUM = Tissue(700, 0.1, 500, 20, 10, 5.0)
