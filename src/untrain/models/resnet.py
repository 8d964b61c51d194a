"""Residual networks for small images (He et al. 2016, "Deep Residual Learning for Image Recognition")."""

from torch import Tensor, nn
from torch.nn import functional


class PaddedShortcut(nn.Module):
    """He et al.'s shortcut "A": every second pixel, the new channels zero; it has no parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C + extra, H / stride, W / stride]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class Residual(nn.Module):
    """Convolutions with batch normalisation, added to a shortcut; names as in torchvision.

    Args:
        in_channels: of the input.
        channels: of each convolution.
        kernels: their sizes; the stride is on the first 3×3 one.
        stride: of the block.
        downsample: the shortcut; None: the input itself.
    """

    def __init__(
        self, in_channels: int, channels: list[int], kernels: list[int], stride: int, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.depth = len(channels)
        strided = kernels.index(3)
        for i, (outputs, kernel) in enumerate(zip(channels, kernels, strict=True)):
            step = stride if i == strided else 1
            conv = nn.Conv2d(in_channels, outputs, kernel, step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(outputs))
            in_channels = outputs
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H', W']."""
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            if i < self.depth:
                x = functional.relu(x)
        return functional.relu(x + shortcut)


class ResNet(nn.Module):
    """A residual network with the stem for small images: one 3×3 convolution, no pooling.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        widths: list[int],
        depths: list[int],
        *,
        bottleneck: bool = False,
        padded: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = len(widths)
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(_block(channels, width, stride, bottleneck, padded))
                channels = 4 * width if bottleneck else width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] → logits [B, num_classes]."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def _block(in_channels: int, width: int, stride: int, bottleneck: bool, padded: bool) -> Residual:
    channels = [width, width, 4 * width] if bottleneck else [width, width]
    outputs = channels[-1]
    shortcut: nn.Module | None = None
    if (stride != 1 or in_channels != outputs) and padded:
        shortcut = PaddedShortcut(outputs - in_channels, stride)
    elif stride != 1 or in_channels != outputs:
        shortcut = nn.Sequential(nn.Conv2d(in_channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return Residual(in_channels, channels, [1, 3, 1] if bottleneck else [3, 3], stride, shortcut)
