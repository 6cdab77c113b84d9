"""Names for types that many functions take or give."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the modules at the top of the library are imported at once, and numpy takes its time
    import numpy as np

File = str | os.PathLike[str]
Record = dict[str, Any]  # a clip of the manifest: data/manifest.py
Meta = dict[str, Any]  # what model.json says of a trained model: models/model_folder.py
Arrays = dict[str, "np.ndarray"]
