"""The names of networks and data sets, and where each is made. Torch-free, for help and completion."""

from __future__ import annotations

# name -> module:function in engine/models; the function takes (input_shape, num_classes, **model arguments).
MODELS: dict[str, str] = {
    "mlp": "mlp:mlp",
    "cnn": "cnn:cnn",
    "lenet5": "lenet:lenet5",
    "vgg16": "vgg:vgg16",
}

# Input [C, H, W] of a network whose checkpoint and data do not say.
INPUT_SHAPES: dict[str, tuple[int, int, int]] = {
    "mlp": (1, 8, 8),
    "cnn": (1, 8, 8),
    "lenet5": (1, 28, 28),
    "vgg16": (3, 32, 32),
}

# name -> module:function in engine/datasets; the function takes the data arguments and returns a Source.
DATASETS: dict[str, str] = {
    "digits": "digits:digits",
    "synthetic": "synthetic:synthetic",
}
