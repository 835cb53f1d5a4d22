"""Batch norms folded into the convolutions before them: the same maps for half of the work, where nothing learns."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(module: nn.Module) -> None:
    """Folds, for good, the pairs that transformers names `convolution` and `normalization` (ResNet, MobileNet, RegNet).

    `W' = W gamma / sqrt(var + eps)`, `b' = (b - mean) gamma / sqrt(var + eps) + beta` (Jacob et al., CVPR 2018,
    eq. 14). For inference alone; maps change in their last bits.

    Args:
      module: in eval mode.
    """
    for layer in module.modules():
        convolution, norm = (getattr(layer, name, None) for name in ("convolution", "normalization"))
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layer.convolution = fuse_conv_bn_eval(convolution, norm)
            layer.normalization = nn.Identity()
