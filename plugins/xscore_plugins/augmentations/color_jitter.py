"""Colour jitter: changes brightness, contrast, saturation and hue of each image by random amounts in a random order.

Source: each strength means the same as in ``torchvision.transforms.ColorJitter``, and each operation is that of
``torchvision.transforms.v2.functional`` on float images. Here, all parameters are drawn per image.

Speed: brightness, contrast and saturation are the same operation, ``a x + (1 - a) y``, where y is black, the image's
mean grey, or each pixel's grey. All images go through it together, whichever of the three is next. Only hue differs:
images are sorted by the number of blends before their hue, so that images with hue as the next step lie side by side.
Each colour channel is a separate plane. On a CPU, the images of one chunk fit into the cache through all operations.
``_shift_hue`` explains the hue shift without a conversion to HSV.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.api import Augmentation, AugmentationSpec, hookimpl

if TYPE_CHECKING:
    import torch

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The operations' numbers in ``order``, as in torchvision's ``ColorJitter.get_params``."""

_UNCHANGED = -1
_CACHED_PIXELS = 1 << 16
"""Pixels in one chunk of images on a CPU: about the content of a core's own cache."""


@dataclass(frozen=True, eq=False)
class ColorJitterParameters:
    """The drawn parameters of N images; all tensors are on the CPU.

    Attributes:
        brightness, contrast, saturation: float32 (N,), factors; 1 changes nothing.
        hue: float32 (N,), shift in turns of the colour circle, -0.5..0.5; 0 changes nothing.
        order: int64 (N, 4), each row a permutation of the operations: BRIGHTNESS, CONTRAST, SATURATION, HUE.
    """

    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor
    order: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Augmentation[ColorJitterParameters]):
    """Jitters the colours of each image of a batch, independently.

    Attributes:
        brightness, contrast, saturation: Factors are uniform in max(0, 1 - x)..1 + x; x is 0 or above.
        hue: Shifts are uniform in -x..x turns of the colour circle; x is in 0..0.5.

    Raises:
        ValueError: a strength is out of range.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            strength = getattr(self, name)
            if not 0 <= strength < math.inf:
                raise ValueError(f"color_jitter: {name} is {strength!r}, expected a finite number, 0 or above")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"color_jitter: hue is {self.hue!r}, expected a number between 0 and 0.5")

    def draw(self, n: int, height: int, width: int, generator: torch.Generator) -> ColorJitterParameters:
        """Draw the parameters of ``n`` images."""
        import torch

        uniform = torch.rand(n, 8, generator=generator)

        def factor(column: int, strength: float) -> torch.Tensor:
            low, high = max(0.0, 1 - strength), 1 + strength
            return low + (high - low) * uniform[:, column]

        return ColorJitterParameters(
            brightness=factor(BRIGHTNESS, self.brightness),
            contrast=factor(CONTRAST, self.contrast),
            saturation=factor(SATURATION, self.saturation),
            hue=self.hue * (2 * uniform[:, HUE] - 1),
            # The ranks of independent uniform numbers are a uniform permutation.
            order=uniform[:, 4:].argsort(dim=1, stable=True),
        )

    def apply(self, images: torch.Tensor, parameters: ColorJitterParameters) -> torch.Tensor:
        """Jitter a batch with drawn parameters.

        Args:
            images: float32 (N, 3, H, W) in 0..1 on any device and of any layout, not modified.
            parameters: From ``draw``, for the same N.

        Returns:
            The jittered images, in 0..1, of the same shape, device and layout.
        """
        import torch

        schedule = _schedule(parameters, images.device)
        output = torch.empty_like(images)
        source, sink = images.transpose(0, 1), output.transpose(0, 1)
        count, _, height, width = images.shape
        most = max(1, _CACHED_PIXELS // max(1, height * width)) if images.device.type == "cpu" else max(1, count)
        for start in range(0, count, most):
            stop = min(start + most, count)
            # A chunk of one image is a view of the batch; several images are gathered and put back by their numbers.
            number = schedule.numbers[start]
            where = slice(number, number + 1) if stop == start + 1 else schedule.samples[start:stop]
            planes = source[:, where].clone(memory_format=torch.contiguous_format)
            for turn in range(4):
                _hue_turn(planes, schedule, turn, start, stop)
                if turn < 3:
                    kinds = {blends[turn] for blends in schedule.blends[start:stop]}
                    _blend(planes, schedule.weights[turn, :, start:stop], kinds)
            sink[:, where] = planes
        return output


@dataclass(frozen=True, eq=False)
class _Schedule:
    """The parameters in the form that the arithmetic needs, sorted by the number of blends before an image's hue.

    The lists are on the host, where they decide which kernels are launched. The tensors are on the images' device.
    Blends are numbered 0..2 in an image's own order, without hue.
    """

    numbers: list[int]
    """The image's position in the batch."""
    hue_rounds: list[int]
    """Number of blends before the hue."""
    blends: list[list[int]]
    """The operation of each blend, or _UNCHANGED if its factor is 1."""
    shifted: list[bool]
    """The hue changes."""
    rotated: list[bool]
    """The hue's change includes a rotation of the channels."""
    samples: torch.Tensor
    """int64 (N,): ``numbers``."""
    weights: torch.Tensor
    """float32 (3, 3, N, 1, 1): by blend, the shares of the image itself, of each pixel's grey and of the mean grey."""
    rotation: torch.Tensor
    """int64 (N,): number of channels to rotate by, 0..2."""
    shift: torch.Tensor
    """float32 (N, 1, 1): the rest of the hue's shift, -1..1 sixths of a turn."""


def _schedule(parameters: ColorJitterParameters, device: torch.device) -> _Schedule:
    import torch

    hue_round, samples = (parameters.order == HUE).int().argmax(dim=1).sort(stable=True)
    order = parameters.order[samples]
    blends = order[order != HUE].view(-1, 3)
    factors = torch.stack((parameters.brightness, parameters.contrast, parameters.saturation), dim=1)
    factor = factors[samples].gather(1, blends)
    other = 1 - factor
    weights = torch.stack((factor, other * (blends == SATURATION), other * (blends == CONTRAST)))

    # A third of a turn is a rotation of the channels. The rest is at most a sixth of a turn, as _shift_hue requires.
    sixths = 6 * parameters.hue[samples].double()
    thirds = (sixths / 2).round()
    shift = (sixths - 2 * thirds).float()
    rotation = thirds.long() % 3

    # One small table needs only one copy to the device.
    table = torch.cat((weights.transpose(1, 2).reshape(9, -1), shift[None])).view(torch.int32)
    table = torch.cat((table, torch.stack((rotation, samples)).int())).to(device, non_blocking=True)
    return _Schedule(
        numbers=samples.tolist(),
        hue_rounds=hue_round.tolist(),
        blends=blends.where(factor != 1, _UNCHANGED).tolist(),
        shifted=sixths.ne(0).tolist(),
        rotated=rotation.ne(0).tolist(),
        samples=table[11].long(),
        weights=table[:9].view(torch.float32).view(3, 3, -1, 1, 1).transpose(0, 1),
        rotation=table[10].long(),
        shift=table[9].view(torch.float32).view(-1, 1, 1),
    )


def _blend(planes: torch.Tensor, weights: torch.Tensor, kinds: set[int]) -> None:
    """Apply one brightness, contrast or saturation operation per image: a x + (1 - a) y, clamped to 0..1, in place.

    Args:
        planes: float32 (3, K, H, W).
        weights: float32 (3, K, 1, 1), the shares of x, of each pixel's grey and of the image's mean grey.
        kinds: The operations that occur among the K images; nothing else is computed.
    """
    import torch

    if kinds == {_UNCHANGED}:
        return
    own, grey_share, mean_share = weights.unbind(0)
    if kinds.isdisjoint((CONTRAST, SATURATION)):
        planes.mul_(own).clamp_(0, 1)
        return
    red, green, blue = planes.unbind(0)
    grey = torch.mul(red, 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    mean = grey.mean(dim=(1, 2), keepdim=True).mul_(mean_share) if CONTRAST in kinds else None
    if SATURATION in kinds:
        other = grey.mul_(grey_share) if mean is None else torch.addcmul(mean, grey, grey_share, out=grey)
        torch.addcmul(other, planes, own, out=planes).clamp_(0, 1)
    elif mean is not None:
        # addcmul leaves its vectorised loop when two operands are broadcast along the pixels.
        planes.mul_(own).add_(mean).clamp_(0, 1)


def _hue_turn(planes: torch.Tensor, schedule: _Schedule, turn: int, start: int, stop: int) -> None:
    """Shift the hue, in place, of the images in start..stop of the schedule whose hue follows ``turn`` blends."""
    first = bisect_left(schedule.hue_rounds, turn, start, stop)
    last = bisect_right(schedule.hue_rounds, turn, first, stop)
    if not any(schedule.shifted[first:last]):
        return
    due = planes[:, first - start : last - start]
    turned = _rotate_channels(due, schedule.rotation[first:last]) if any(schedule.rotated[first:last]) else due
    _shift_hue(turned, schedule.shift[first:last], out=due)


def _rotate_channels(planes: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Turn the hue by thirds of a circle: red becomes green, green becomes blue, blue becomes red, ``rotation`` times.

    Args:
        planes: float32 (3, K, H, W).
        rotation: int64 (K,), 0..2.
    """
    import torch

    count = planes.shape[1]
    channel = torch.arange(3, device=planes.device).view(3, 1)
    rows = (channel - rotation) % 3 * count + torch.arange(count, device=planes.device)
    return planes.reshape(3 * count, -1).index_select(0, rows.flatten()).view(planes.shape)


def _shift_hue(planes: torch.Tensor, shift: torch.Tensor, out: torch.Tensor) -> None:
    """Turn the hue by up to a sixth of a circle. Equals the way through HSV, without hue, division or branches.

    Let a colour's channels be max >= mid >= min and c = max - min. As the hue turns, each channel is a trapezoid: a
    triangle wave with a slope of c per sixth of a turn, clipped at max and min. The colour itself gives the unclipped
    wave: for channel x it is 2 x - mid. (For the middle channel that is mid. For the largest it is
    max + (max - mid), which grows towards the hue at which that channel alone is largest. The smallest is analogous.)
    With growing hue, the wave falls where the next channel (green after red, blue after green, red after blue) is above
    the one after it, and rises where it is below. With the shift s in sixths:

        x' = clamp(2 x - mid - s c sign(next - after), min, max)

    Past its peak or trough the formula leaves the wave. For |s| <= 1 that is only where both are beyond max or min.
    Where next = after, x is at the peak or the trough, and the sign does not matter.

    Args:
        planes: float32 (3, K, H, W).
        shift: float32 (K, 1, 1), sixths of a turn, -1..1.
        out: The result's tensor, like ``planes``; may be ``planes`` itself.
    """
    import torch

    red, green, blue = planes.unbind(0)
    low, high = torch.minimum(red, green), torch.maximum(red, green)
    largest, smallest = torch.maximum(high, blue), torch.minimum(low, blue)
    middle = torch.maximum(low, torch.minimum(high, blue, out=high), out=high)
    step = torch.sub(largest, smallest, out=low).mul_(shift)
    wave = torch.empty_like(planes)
    for falls, less, wave_of in zip((blue, red, green), (green, blue, red), wave.unbind(0), strict=True):
        torch.sub(falls, less, out=wave_of)
    torch.addcmul(middle.neg_(), wave.sign_(), step, out=wave).add_(planes, alpha=2)
    torch.clamp(wave, smallest, largest, out=out)


def build(*, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0) -> ColorJitter:
    """Return colour jitter of the given strengths; a strength of 0 does not change that property."""
    return ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)


@hookimpl
def harness_augmentations() -> list[AugmentationSpec]:
    """Register the colour jitter."""
    return [
        AugmentationSpec(
            name="color_jitter",
            title="Colour jitter",
            build=build,
            paper="torchvision.transforms.ColorJitter; after A. G. Howard, Some Improvements on Deep Convolutional "
            "Neural Network Based Image Classification, 2013, arXiv:1312.5402",
        )
    ]
