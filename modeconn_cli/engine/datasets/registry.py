"""The names of the data sets, and where each is made. Torch-free, for help and completion."""

from __future__ import annotations

# name -> module:function; the function takes the data settings' arguments and returns a Source.
DATASETS: dict[str, str] = {
    "digits": "digits:digits",
    "synthetic": "synthetic:synthetic",
}
