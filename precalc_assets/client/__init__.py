"""What readers use: predictions of their molecules by command and in Python, from an API or from one's own tables.

`source` says what predictions are read from, `local` and `remote` are the two that there are. `asked` reads molecules,
`getting` gets their predictions into files of `formats`, `partial` so that they can be gone on with; `computing` runs
models on what is missing, `downloading` fetches whole files. `frames` has the class for Python.
"""

from precalc_assets.client.errors import ApiError, ChangedError, DownloadError
from precalc_assets.client.frames import Precalc

__all__ = ["ApiError", "ChangedError", "DownloadError", "Precalc"]
