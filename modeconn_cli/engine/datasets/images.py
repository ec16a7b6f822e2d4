"""Images in files, read batch by batch by worker processes.

Their values lie between black 0 and white 255. Files of more than 8 bits keep theirs as fractions of that range; where
nobody says what is white, they are refused.

Every random crop is keyed by (seed, epoch, sample id): the number of workers and the batch size cannot change it.
"""

from __future__ import annotations

import contextlib
import math
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets.transforms import Transform
from modeconn_cli.engine.errors import CONTINUE, InputError
from modeconn_cli.engine.machine.devices import cores
from modeconn_cli.engine.machine.runtime import STOP_SIGNALS
from modeconn_cli.engine.results.parsing import opened, parsing

if TYPE_CHECKING:
    from PIL import Image

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop (Szegedy et al. 2015)
CENTRE = 224 / 256  # of the shorter side, kept in evaluation
TRIES = 10
NAMED = 5  # unreadable files shown
WHITE = 255.0
GREY = ("1", "L", "LA", "La")
COLOUR = "in colour"
OTHER_SIZE = "of another size: "
LOOKED_AT = 64  # files whose headers say whether all images are of one size
# Pillow knows further formats, of which PostScript starts another program. The format may be another one than the
# file's name says.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
# Pixels that a file of any size may claim, and those of each of its bytes past that: a blank PNG has 350.
LARGE, MOST_COMPRESSED = 1 << 24, 1000
NO_IMAGE = "no image "
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits begin with these
_LOST_BITS = re.compile(r";16[BLN]$")  # of Pillow's raw modes, which it reads by their upper halves


@dataclass(frozen=True)
class ImageFiles:
    """Image files that become [channels, *size] each: uint8, or float32 of more than 8 bits, from 0 to WHITE.

    `size` is height and width; images of another one are resized, or refused where they are taken `as_found`. Of three
    `channels` those of a grey image are equal; of one, images in colour are refused.
    """

    paths: tuple[Path, ...]
    size: tuple[int, int]
    as_found: bool = False
    workers: int = 0
    channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.paths), self.channels, *self.size)

    def listing(self) -> list[str]:
        """The place of every file in its folder of classes, and its size in bytes."""
        return [f"{'/'.join(path.parts[-2:])} {path.stat().st_size}" for path in self.paths]

    @property
    def begins_grey(self) -> bool:
        """Whether the first image is grey: all of them may be."""
        return bool(self.paths) and not isinstance(_decoded(self.paths[0], channels=1), _Refused)

    def take(self, rows: Tensor) -> ImageFiles:
        return replace(self, paths=tuple(self.paths[row] for row in rows.tolist()))

    def read(
        self,
        rows: Sequence[Tensor],
        ids: Tensor,
        transform: Transform,
        augment: tuple[int, int] | None,
    ) -> Iterator[Tensor]:
        """The images of each batch of row numbers [B, channels, *size], float32 where one of them is.

        Raises InputError for bad files.
        """
        from torch.utils.data import DataLoader

        reader = _Reader(self, ids, transform.resized_crop, augment)
        loader: DataLoader[Any] = DataLoader(
            reader,  # type: ignore[arg-type]
            batch_sampler=[these.tolist() for these in rows],
            num_workers=min(self.workers, len(rows)),
            collate_fn=_collate,
            worker_init_fn=_ignore_stop_signals,
        )
        for images in _living(loader):
            if isinstance(images, _Refused):
                raise self._unreadable(images)
            yield images

    def decoded(self, row: int) -> Image.Image | _Refused:
        """The image of one file, as large as it is."""
        image = _decoded(self.paths[row], self.channels)
        if self.as_found and not isinstance(image, _Refused) and (image.height, image.width) != self.size:
            height, width = self.size
            reason = f"{OTHER_SIZE}{image.width} x {image.height}, others {width} x {height}"
            return _Refused(self.paths[row], reason)
        return image

    def _unreadable(self, first: _Refused) -> InputError:
        """What is wrong with one file, and how many more there are (found by reading every file)."""
        every = [self.decoded(row) for row in range(len(self.paths))]
        bad = [found for found in every if isinstance(found, _Refused)] or [first]
        shown = ", ".join(map(str, bad[:NAMED])) + (", …" if len(bad) > NAMED else "")
        what, hint = "cannot be read", "fetch them again"
        if first.reason.startswith(NO_IMAGE):
            hint = "take them out of the folder"
        elif first.reason:
            hint = "save them with 8 bits per channel, or as floats in an .npz file"
        if first.reason.startswith(OTHER_SIZE):
            hint = "pass --image-size N to resize all of them to N x N"
        if first.reason == COLOUR:
            what, hint = "cannot be read in one channel", "save them as grey (Pillow: image.convert('L'))"
            hint += ", or pass --data-arg channels=3 for a network that takes three"
        return InputError(f"{len(bad)} of {len(self.paths)} images {what}: {shown}", hint)


@dataclass(frozen=True)
class _Refused:
    """A file that cannot be read, and why where it is not damaged."""

    path: Path
    reason: str = ""

    def __str__(self) -> str:
        return f"'{self.path}'" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class _Reader:
    """A map-style data set that decodes one image."""

    files: ImageFiles
    ids: Tensor
    resized_crop: bool
    augment: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, row: int) -> np.ndarray | _Refused:
        """[channels, *size], uint8 or float32."""
        from PIL import Image

        size = self.files.size[::-1]  # Pillow's order
        image = self.files.decoded(row)
        if isinstance(image, _Refused):
            return image
        box: tuple[float, float, float, float] = (0, 0, image.width, image.height)
        if self.resized_crop and image.size != size:
            box = self._crop(image.width, image.height, row)
        if image.size != size or self.resized_crop:
            image = image.resize(size, Image.Resampling.BILINEAR, box=box)
        pixels = np.asarray(image)
        alike = self.files.channels
        channels = pixels[None].repeat(alike, axis=0) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return channels.copy()

    def _crop(self, width: int, height: int, row: int) -> tuple[float, float, float, float]:
        """The part of the image that is used: random in training, the centre otherwise."""
        if self.augment is None:
            side = min(width, height) * CENTRE
            left, upper = (width - side) / 2, (height - side) / 2
            return left, upper, left + side, upper + side
        seed, epoch = self.augment
        draws = keyed.uniform(seed, "crop", self.ids[row : row + 1], draw=epoch, width=4 * TRIES)[0].tolist()
        for area, ratio, across, down in zip(*[iter(draws)] * 4, strict=True):
            part = (AREA[0] + (AREA[1] - AREA[0]) * area) * width * height
            aspect = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * ratio)
            w, h = round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, upper = int(across * (width - w + 1)), int(down * (height - h + 1))
                return left, upper, left + w, upper + h
        side = min(width, height)
        return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def _ignore_stop_signals(_worker: int) -> None:
    """A signal to the whole process group is for the process that saves: it ends its workers itself."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _collate(images: Sequence[np.ndarray | _Refused]) -> Tensor | _Refused:
    """One tensor, or the first file that could not be read. Whole numbers keep their values among floats."""
    bad = next((image for image in images if isinstance(image, _Refused)), None)
    return bad if bad is not None else torch.from_numpy(np.stack(images))  # type: ignore[arg-type]


def _decoded(path: Path, channels: int) -> Image.Image | _Refused:
    """The image of a file: 8 bits per channel, or one channel of floats, from 0 to WHITE."""
    try:
        with _opened(path) as file:
            deep = file.mode.startswith(DEEP)
            if not deep and _loses_bits(file, path):
                return _Refused(path, "more than 8 bits per channel in colour")
            with parsing(path, "image"):
                file.load()
            if deep:
                return _deep(file, path)
            return _converted(file, "RGB", path) if channels == 3 else _grey(file, path)
    except InputError as error:
        return _Refused(path, _why(error))


def _why(error: InputError) -> str:
    """What is wrong with a file that is no image, empty where it is damaged or of another format."""
    from PIL import Image

    bomb = isinstance(error.__cause__, Image.DecompressionBombError)
    said = f"{NO_IMAGE}of more pixels than memory holds" if bomb else error.message.rpartition("' is ")[2]
    return said if said.startswith(NO_IMAGE) else ""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A file with the header of an image, whose pixels have not been looked at. Raises InputError for any other."""
    from PIL import Image

    if not path.is_file():
        raise InputError(f"'{path}' is {NO_IMAGE}in a file, but a folder, a pipe or a device")
    with opened(path) as stream:
        if (claimed := _webp_size(stream.read(30))) is not None:  # Pillow takes memory for all of it at once
            _check_size(path, claimed, stream)
        stream.seek(0)
        with parsing(path, "image"):
            file = Image.open(stream, formats=FORMATS)
        _check_size(path, file.size, stream)
        stream.seek(0)
        yield file


def _check_size(path: Path, claimed: tuple[int, int], stream: IO[bytes]) -> None:
    """Raises InputError for an image that has no pixels, or more than its bytes can hold."""
    (width, height), size = claimed, stream.seek(0, 2)
    if not width * height or width * height > max(LARGE, MOST_COMPRESSED * size):
        raise InputError(f"'{path}' is {NO_IMAGE}of {width} x {height} pixels in {size:,} bytes")


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height in the head of a WebP file; None for any other."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    number = int.from_bytes
    if head[12:16] == b"VP8 ":
        return number(head[26:28], "little") & 0x3FFF, number(head[28:30], "little") & 0x3FFF
    if head[12:16] == b"VP8L":
        bits = number(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return number(head[24:27], "little") + 1, number(head[27:30], "little") + 1  # VP8X


def _converted(file: Image.Image, mode: str, path: Path) -> Image.Image:
    with parsing(path, "image"):
        return file.convert(mode)


def _grey(file: Any, path: Path) -> Image.Image | _Refused:
    """The one channel of a grey image, also of one that is stored in three; refused where they differ."""
    if file.mode in GREY:
        return _converted(file, "L", path)
    red, green, blue = _converted(file, "RGB", path).split()
    alike = red.tobytes() == green.tobytes() == blue.tobytes()
    return red if alike else _Refused(path, COLOUR)


def _deep(file: Any, path: Path) -> Image.Image | _Refused:
    """An image of one channel with more than 8 bits; refused where what is white in it is not known."""
    from PIL import Image

    white = _white(file, path)
    values = np.asarray(file).astype(np.float64)
    if _tag(file, "PhotometricInterpretation", path) == 0:
        return _Refused(path, "zero is white")
    if white is None:
        return _Refused(path, "whole numbers of which none is known to be white")
    if file.mode == "F" and not ((values >= 0) & (values <= 1)).all():
        return _Refused(path, "floats that are not all between 0 and 1")
    return Image.fromarray((values * (WHITE / white)).astype(np.float32))


def _white(file: Any, path: Path) -> float | None:
    """The value of white, by the file's format; None where that says nothing of it."""
    if file.mode == "F":
        return 1.0
    if file.mode.startswith("I;16"):
        return 4095.0 if _tag(file, "BitsPerSample", path) == (12,) else 65535.0
    return 65535.0 if file.format in ("PNG", "PPM") else None


def _loses_bits(file: Any, path: Path) -> bool:
    """Whether Pillow would read the upper half of 16 bits per channel, without a word."""
    depth, how = _tag(file, "BitsPerSample", path) or (8,), [tile[3] for tile in getattr(file, "tile", ())]
    words = [each if isinstance(each, tuple) else (each,) for each in how]
    return (
        max(depth) > 8
        or any(isinstance(word, str) and bool(_LOST_BITS.search(word)) for each in words for word in each)
        or (file.format == "PPM" and any(isinstance(each[-1], int) and each[-1] > WHITE for each in words))
    )


def _tag(file: Any, name: str, path: Path) -> Any:
    """What a TIFF file says, None of other formats."""
    from PIL import ExifTags

    if file.format != "TIFF":
        return None
    with parsing(path, "image"):
        return file.tag_v2.get(ExifTags.Base[name])


def common_size(paths: Sequence[Path]) -> tuple[int, int] | None:
    """Height and width of the images, None where they differ; of many files some are looked at, across all of them."""
    step = max(1, len(paths) // LOOKED_AT)
    found = set()
    for path in paths[::step]:
        with contextlib.suppress(InputError), _opened(path) as file:  # which is named when it is read
            found.add((file.height, file.width))
    return found.pop() if len(found) == 1 else None


def _living(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of a loader. Raises InputError where the system has ended one of its processes."""
    batches = iter(loader)
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(
                "a process that reads images was ended by the system, as when memory runs out",
                f"pass fewer --workers (0: none) or a smaller --batch-size; {CONTINUE}",
            ) from error
        if batch is None:
            return
        yield batch


def default_workers() -> int:
    """One process per core that is left beside the training itself, eight at most."""
    return max(0, min(8, cores() - 1))
