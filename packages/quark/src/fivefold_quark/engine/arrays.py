"""Names of the array types that the engine passes around."""

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
"""Zeros and ones."""
Codes = NDArray[np.int64]
"""Values of the weight register."""
Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]
