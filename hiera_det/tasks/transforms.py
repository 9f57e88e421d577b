"""Images to tensors: for evaluation, for MAE pretraining, and for training a classifier.

Evaluation is the authors' (examples/inference.ipynb): the shorter side to 256/224 of the crop's, bicubic, then the
middle. Each function gives a reader from a path to ``[3, H, W]``, normalised by ImageNet's mean and deviation.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from hiera_det.data.bad_images import BadImages
from hiera_det.data.images import MAX_PIXELS, read_image
from hiera_det.data.video import normalise_clip, read_clip, read_clips, read_views
from hiera_det.errors import InputError
from hiera_det.extras import need

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "UNIT",
    "Augmentation",
    "ImageReader",
    "Reader",
    "augmented_clips_reader",
    "augmented_reader",
    "check_image_size",
    "clip_reader",
    "cropped_reader",
    "eval_reader",
    "evaluated_reader",
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


class ClipsReader(Reader):
    """Reads several clips at random places of a video, each augmented in its own way, all frames of one alike."""

    def __init__(
        self, frames: int, stride: float, repeats: int, before: Callable[[Tensor], Tensor], after: Callable[..., Tensor]
    ) -> None:
        super().__init__()
        self.frames, self.stride, self.repeats, self.before, self.after = frames, stride, repeats, before, after

    def read(self, path: str) -> Tensor:
        """A path to ``[repeats, 3, T, size, size]``."""
        clips = read_clips(path, self.frames, self.stride, [random.random() for _ in range(self.repeats)])
        frames = (self.after(normalise_clip(self.before(clip.transpose(0, 1)))) for clip in clips)  # [T, 3, H, W]
        return torch.stack([clip.transpose(0, 1) for clip in frames])


class ViewsReader(Reader):
    """Reads the views that a video is evaluated by."""

    def __init__(self, size: int, frames: int, stride: float, views: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.frames, self.stride, self.views = size, frames, stride, views

    def read(self, path: str) -> Tensor:
        """A path to ``[V, 3, T, size, size]``."""
        spatial, temporal = self.views
        return read_views(path, self.frames, self.stride, self.size, temporal, spatial)


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


def augmented_clips_reader(
    size: int, frames: int, stride: float, repeats: int, augmentation: Augmentation
) -> ClipsReader:
    """Clips for training a classifier, augmented as images are, by torchvision's means.

    Args:
        size: side of the square in pixels.
        frames: of a clip.
        stride: see `hiera_det.data.video.clip_frames`.
        repeats: clips of a video.
        augmentation: what is done to them; of a policy of timm's the magnitude counts.
    """
    need("torchvision", "preparing clips")
    need("av", "reading videos")
    from torchvision.transforms import v2

    before: list[Any] = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    if augmentation.auto_augment:
        magnitude = re.search(r"m(\d+)", augmentation.auto_augment)
        # timm counts magnitudes to 10, torchvision in 31 steps
        before.append(v2.RandAugment(magnitude=3 * min(10, int(magnitude[1]) if magnitude else 9)))
    after = v2.RandomErasing(augmentation.random_erase, value="random")
    return ClipsReader(frames, stride, repeats, v2.Compose(before), after)


def evaluated_reader(size: int, frames: int, stride: float, views: tuple[int, int]) -> Reader:
    """What accuracies are measured on: the middle of an image, or of videos the views of `read_views`."""
    if not frames:
        return eval_reader(size)
    need("av", "reading videos")
    return ViewsReader(size, frames, stride, views)


def _to_tensor() -> list[Any]:
    from torchvision import transforms

    return [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
