"""Images to tensors: for evaluation, for MAE pretraining, and for training a classifier.

Evaluation is the authors' (examples/inference.ipynb): the shorter side to 256/224 of the crop's, bicubic, then the
middle. Each function gives a reader from a path to ``[3, H, W]``, normalised by ImageNet's mean and deviation.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from hiera_det.data.bad_images import BadImages
from hiera_det.data.images import MAX_PIXELS, read_image
from hiera_det.data.video import normalise_clip, read_clip
from hiera_det.errors import InputError
from hiera_det.extras import need

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "UNIT",
    "Augmentation",
    "ImageReader",
    "Reader",
    "augmented_reader",
    "check_image_size",
    "clip_reader",
    "cropped_reader",
    "eval_reader",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Sides of the published models' images and mask units.
EVAL_RATIO, UNIT = 256 / 224, 32


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to the images of a classifier's training; the published recipe's values.

    Attributes:
        auto_augment: timm's name of a policy; "" for none.
        random_erase: probability of filling a rectangle with noise.
    """

    auto_augment: str = "rand-m9-mstd0.5-inc1"
    random_erase: float = 0.25


_Reader = TypeVar("_Reader", bound="Reader")


class Reader:
    """Reads a file; an object and no closure, so that worker processes can be sent it.

    Attributes:
        max_pixels: of an image, see `hiera_det.data.images`.
        bad_images: what becomes of files that cannot be read.
    """

    def __init__(self) -> None:
        self.max_pixels, self.bad_images = MAX_PIXELS, BadImages()

    def with_limits(self: _Reader, max_pixels: int, bad_images: BadImages) -> _Reader:
        """This reader, with another limit and another treatment of bad files."""
        self.max_pixels, self.bad_images = max_pixels, bad_images
        return self

    def __call__(self, path: str) -> Any:
        """A path to a tensor; None where the file cannot be read and is to be skipped.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return self.read(path)
        except InputError as error:
            self.bad_images.add(error)
            return None

    def read(self, path: str) -> Tensor:
        """A path to a tensor."""
        raise NotImplementedError


class ImageReader(Reader):
    """Reads an image and transforms it."""

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.transform = transform

    def read(self, path: str) -> Tensor:
        """A path to ``[3, H, W]``."""
        return self.transform(read_image(path, max_pixels=self.max_pixels))


class ClipReader(Reader):
    """Reads a clip at a random place of a video, a random square of it, flipped or not."""

    def __init__(self, size: int, frames: int, stride: float) -> None:
        super().__init__()
        self.size, self.frames, self.stride = size, frames, stride

    def read(self, path: str) -> Tensor:
        """A path to ``[3, T, size, size]``."""
        from torchvision.transforms import functional as transforms
        from torchvision.transforms.v2 import RandomResizedCrop

        clip = read_clip(path, self.frames, self.stride, random.random()).transpose(0, 1)  # [T, 3, H, W]
        clip = RandomResizedCrop(self.size, scale=(0.5, 1.0), antialias=True)(clip)
        clip = transforms.hflip(clip) if random.random() < 0.5 else clip
        return normalise_clip(clip.transpose(0, 1))


def check_image_size(size: int, word: str = "--image-size") -> None:
    """Refuse a side that the trunk cannot take.

    Args:
        size: in pixels.
        word: the flag or field that named it, for the message.

    Raises:
        InputError: it is no positive multiple of 32.
    """
    if type(size) is not int or size < UNIT or size % UNIT:
        raise InputError(f"{word} {size}: must be a positive multiple of {UNIT}")


def eval_reader(size: int) -> ImageReader:
    """The middle of an image, as the published accuracies are measured."""
    need("torchvision", "preparing images")
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(int(EVAL_RATIO * size), bicubic), transforms.CenterCrop(size)]
    return ImageReader(transforms.Compose([*steps, *_to_tensor()]))


def cropped_reader(size: int) -> ImageReader:
    """A random part of at least a fifth of an image, flipped or not: the augmentation of MAE pretraining."""
    need("torchvision", "preparing images")
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.RandomResizedCrop(size, (0.2, 1.0), interpolation=bicubic), transforms.RandomHorizontalFlip()]
    return ImageReader(transforms.Compose([*steps, *_to_tensor()]))


def augmented_reader(size: int, augmentation: Augmentation, word: Callable[[str], str] = str) -> ImageReader:
    """A random part of an image, augmented by timm as for the published classifiers.

    Args:
        size: side of the square in pixels.
        augmentation: what is done to it.
        word: a field of it to what the user calls that, for messages.

    Raises:
        InputError: timm is not installed and would be used, or does not know the policy.
    """
    if not augmentation.auto_augment and not augmentation.random_erase:
        return cropped_reader(size)
    need("torchvision", "preparing images")
    policy_word, erase_word = word("auto_augment"), word("random_erase")
    need("timm", f"{policy_word} and {erase_word} (without: {policy_word} '' {erase_word} 0)")
    from timm.data import create_transform
    from torchvision import transforms

    before, _, after = create_transform(
        size,
        is_training=True,
        color_jitter=None,
        interpolation="bicubic",
        re_prob=augmentation.random_erase,
        re_mode="pixel",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        separate=True,
    )
    policy = [_policy(augmentation.auto_augment, size, policy_word)] if augmentation.auto_augment else []
    return ImageReader(transforms.Compose([before, *policy, after]))


def _policy(name: str, size: int, word: str) -> Any:
    """Timm's random augmentation of a name, with posterizing that recent releases of Pillow take.

    Raises:
        InputError: timm knows no such policy.
    """
    from PIL import Image
    from timm.data.auto_augment import rand_augment_transform

    options = {
        "translate_const": int(size * 0.45),  # as timm's create_transform has it
        "img_mean": tuple(round(255 * mean) for mean in IMAGENET_MEAN),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        policy = rand_augment_transform(name, options)
    except (AssertionError, ValueError, KeyError):
        raise InputError(f"{word} {name}: timm has none; one is {Augmentation.auto_augment}") from None
    for op in policy.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    return policy


def _posterize(image: Any, bits: int, **_: Any) -> Any:
    """Keep the highest bits, at least one: at 0, which timm draws now and then, recent Pillow raises."""
    from PIL import ImageOps

    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))


def clip_reader(size: int, frames: int, stride: float) -> ClipReader:
    """Clips for MAE pretraining: random in time and space."""
    need("torchvision", "preparing clips")
    need("av", "reading videos")
    return ClipReader(size, frames, stride)


def _to_tensor() -> list[Any]:
    from torchvision import transforms

    return [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
