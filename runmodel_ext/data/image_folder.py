"""Images in folders that are named after their classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from runmodel_ext.data.loaders import Augmented, LoadersModule, require_fractions
from runmodel_ext.data.splits import stratified_split
from runmodel_ext.errors import ConfigError, MissingExtraError, NotFoundError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})

Sample = tuple[Path, int]


class ImageFolder(LoadersModule):
    """Images as ``root/train/<class>/*.png``, with ``root/val`` and ``root/test`` beside ``train``.

    A part without a folder is split off ``train``, of each class the same share. Where there is no ``train``
    either, the class folders lie in ``root`` itself, and all parts are split off them. Classes are numbered
    in the order of their names. Images are float, ``[0, 1]``, shape (channels, height, width). Prediction
    runs over the test part.

    Args:
        root: The folder.
        image_size: Height and width to which every image is resized: one number, or two.
        mode: ``rgb`` (3 channels) or ``gray`` (1 channel).
        flip: Whether training images are mirrored left to right, each with probability 1/2, anew in each
            epoch.
        val_fraction: Share that validates, where there is no ``val`` folder.
        test_fraction: Share that tests, where there is no ``test`` folder.
        batch_size: Samples in a batch, at least 1.
        split_seed: Which split.
        num_workers: Processes that load; changes no result.

    Raises:
        ConfigError: If an argument is outside its range, or an image cannot be read.
        NotFoundError: If there is no such folder, or no image in it.
        MissingExtraError: If Pillow is not installed.
    """

    def __init__(  # noqa: PLR0913 - each argument is a key of a configuration
        self,
        root: str,
        image_size: int | tuple[int, int] = 64,
        mode: Literal["rgb", "gray"] = "rgb",
        flip: bool = False,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        batch_size: int = 32,
        split_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        require_fractions(val_fraction, test_fraction)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1:
            raise ConfigError(f"`image_size` must be at least 1, but is {image_size}.")
        self.root = Path(root)
        self.size = (height, width)
        self.mode = mode
        self.flip = flip
        self.fractions = (val_fraction, test_fraction)
        self.split_seed = split_seed
        self.class_names: list[str] = []

    @override
    def setup(self, stage: str | None = None) -> None:
        if not self.root.is_dir():
            raise NotFoundError(f"There is no folder '{self.root}' with images. Set `root` to one.")
        folder = self.root / "train" if (self.root / "train").is_dir() else self.root
        self.class_names = _classes(folder)
        train = self._samples(folder)
        if not train:
            raise NotFoundError(
                f"There is no image in the class folders of '{folder}'. "
                "Images lie as <class>/<name>.png (or .jpg, .bmp, ...)."
            )
        train, val, test = self._parts(train, within=folder)
        images = _Images(train, self.size, self.mode)
        self.train_set = Augmented(images, mirror) if self.flip else images
        self.val_set = _Images(val, self.size, self.mode)
        self.test_set = _Images(test, self.size, self.mode)

    @property
    def num_classes(self) -> int:
        """How many classes there are; known after ``setup``."""
        return len(self.class_names)

    def _parts(self, train: list[Sample], within: Path) -> tuple[list[Sample], list[Sample], list[Sample]]:
        folders = [self.root / part for part in ("val", "test")]
        given = [folder.is_dir() and within != self.root for folder in folders]
        shares = [0.0 if there else share for there, share in zip(given, self.fractions, strict=True)]
        split = stratified_split([label for _, label in train], shares[0], shares[1], self.split_seed)
        parts = [[train[place] for place in part] for part in split]
        for number, (there, folder) in enumerate(zip(given, folders, strict=True), start=1):
            if there:
                parts[number] = self._samples(folder)
        return parts[0], parts[1], parts[2]

    def _samples(self, folder: Path) -> list[Sample]:
        number = {name: place for place, name in enumerate(self.class_names)}
        unknown = [name for name in _classes(folder) if name not in number]
        if unknown:
            raise ConfigError(
                f"'{folder}' has the class '{unknown[0]}', which the training images do not have; they have "
                f"{', '.join(self.class_names)}."
            )
        return [
            (path, number[name])
            for name in _classes(folder)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES and path.is_file()
        ]


class _Images(Dataset[tuple[Tensor, int]]):
    """Images that are read from their files when they are asked for."""

    def __init__(self, samples: Sequence[Sample], size: tuple[int, int], mode: str) -> None:
        self.samples = list(samples)
        self.size = size
        self.mode = mode

    def __len__(self) -> int:
        return len(self.samples)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return _read(path, self.size, self.mode), label


def mirror(image: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror an image left to right, with probability 1/2."""
    return image.flip(-1) if bool(torch.randint(0, 2, (), generator=generator)) else image


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _read(path: Path, size: tuple[int, int], mode: str) -> Tensor:
    pillow: Any = _pillow()
    try:
        with pillow.open(path) as file:
            image = file.convert("L" if mode == "gray" else "RGB")
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"The image '{path}' cannot be read: {reason}. Mend or remove it.") from error
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), pillow.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, -1).permute(2, 0, 1).float() / 255


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "ImageFolder needs Pillow, which is not installed: pip install 'runmodel_ext[images]'."
        ) from error
    return Image
