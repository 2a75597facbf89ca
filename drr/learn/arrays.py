"""Types of the arrays that learning, certifying and evaluating work on."""

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Reals = NDArray[np.float64]
