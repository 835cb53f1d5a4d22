"""Batch norms folded into the convolutions before them: the same maps for half of the work, where nothing learns."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PAIRS = (
    ("convolution", "normalization"),  # ResNet, MobileNet, RegNet
    ("convolution", "batchnorm"),  # the others: EfficientNet
    ("expand_conv", "expand_bn"),
    ("depthwise_conv", "depthwise_norm"),
    ("project_conv", "project_bn"),
    ("top_conv", "top_bn"),
)
"""What transformers names a convolution and the batch norm after it, within one module."""


def fold_batch_norms(module: nn.Module) -> None:
    """Folds `PAIRS`, for good.

    `W' = W gamma / sqrt(var + eps)`, `b' = (b - mean) gamma / sqrt(var + eps) + beta` (Jacob et al., CVPR 2018,
    eq. 14). For inference alone; maps change in their last bits.

    Args:
      module: in eval mode.
    """
    for layer in module.modules():
        for names in PAIRS:
            convolution, norm = (getattr(layer, name, None) for name in names)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(layer, names[0], fuse_conv_bn_eval(convolution, norm))
                setattr(layer, names[1], nn.Identity())
