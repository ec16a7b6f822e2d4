"""Small networks by the classes of torchvision, and some of our own with what the libraries do not have."""

from __future__ import annotations

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import convnext, densenet, efficientnet, mobilenetv2, mobilenetv3, regnet, vgg


def tv_vgg(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Its layers before a small classifier: its own has 4096 units."""
    features = vgg.make_layers([8, "M", 16, "M", 16, "M"], batch_norm=True)
    return nn.Sequential(
        features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Dropout(),
        nn.Linear(24, num_classes),
    )  # fmt: skip


def tv_densenet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return densenet.DenseNet(8, (2, 2, 2), 16, num_classes=num_classes)


def tv_vit(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return models.VisionTransformer(input_shape[1], 8, 2, 2, 24, 32, num_classes=num_classes)


def tv_swin(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=num_classes)


def tv_swin_v2(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    return models.SwinTransformer(
        [4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=num_classes, block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )  # fmt: skip


def tv_maxvit(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return models.MaxVit(
        input_shape[1:], 16, 2, [16, 32], [1, 1], 8, num_classes=num_classes, stochastic_depth_prob=0.2
    )


def tv_convnext(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    setting = [convnext.CNBlockConfig(16, 32, 2), convnext.CNBlockConfig(32, None, 1)]
    return models.ConvNeXt(setting, 0.1, num_classes=num_classes)


def tv_efficientnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    c, f = efficientnet.MBConvConfig, efficientnet.FusedMBConvConfig
    setting = [f(2, 3, 1, 16, 16, 1), c(2, 3, 2, 16, 24, 2), c(4, 5, 2, 24, 32, 1)]
    return models.EfficientNet(setting, 0.2, num_classes=num_classes, last_channel=48)


def tv_mobilenet_v2(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return mobilenetv2.MobileNetV2(num_classes, 0.25, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]])


def tv_mobilenet_v3(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    c = mobilenetv3.InvertedResidualConfig
    setting = [
        c(16, 3, 16, 16, True, "RE", 2, 1, 1),
        c(16, 5, 48, 24, True, "HS", 2, 1, 1),
        c(24, 3, 48, 24, False, "HS", 1, 2, 1),
    ]
    return models.MobileNetV3(setting, 48, num_classes=num_classes)


def tv_regnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return models.RegNet(
        regnet.BlockParams([1, 2], [16, 32], [8, 8], [1.0, 1.0], [2, 2], 0.25), num_classes=num_classes
    )


def tv_shufflenet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return models.ShuffleNetV2([2, 2, 1], [16, 24, 32, 48, 64], num_classes=num_classes)


def tv_mnasnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return models.MNASNet(0.1, num_classes=num_classes)


class Norms(nn.Module):
    """Group norm, instance norms with and without statistics, weight norm, dilated, transposed and depthwise layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        weight_norm = nn.utils.parametrizations.weight_norm
        self.a, self.gn = weight_norm(nn.Conv2d(3, 12, 3, dilation=2)), nn.GroupNorm(3, 12)
        self.b, self.i = nn.Conv2d(12, 12, 3, groups=12, padding="same"), nn.InstanceNorm2d(12, affine=True)
        self.c, self.j = (
            nn.ConvTranspose2d(12, 8, 3, stride=2),
            nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        )
        self.p, self.f = nn.PReLU(8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.gn(self.a(x)))
        x = F.relu(self.i(self.b(x))) + x
        return self.f(self.p(self.j(self.c(x))).mean((2, 3)))


class Spectral(nn.Module):
    """Both spectral norms, batch norm of vectors, a layer that is used twice, tied weights and scales."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.a = nn.utils.spectral_norm(nn.Linear(3 * 64, 20))
        self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(20, 20))
        self.n, self.c, self.d = nn.BatchNorm1d(20), nn.Linear(20, 20), nn.Linear(20, 20, bias=False)
        self.d.weight = self.c.weight
        self.scale, self.f = nn.Parameter(torch.full((20,), 1e-2)), nn.Linear(20, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n(self.a(x.flatten(1))))
        x = x + self.scale * torch.tanh(self.b(F.relu(self.b(x))))
        return self.f(F.silu(self.d(F.relu(self.c(x)))))


class Lengths(nn.Module):
    """Convolutions in one dimension and three, batch norms of their outputs, a gated linear unit and recurrence."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.a, self.n = nn.Conv1d(3, 12, 5), nn.BatchNorm1d(12)
        self.c, self.m = nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4)
        self.g, self.f = nn.Linear(12, 16), nn.Linear(8 + 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.n(self.a(x.flatten(2)))).mean(2)
        v = F.leaky_relu(self.m(self.c(x[:, None]))).mean((2, 3, 4))
        return self.f(torch.cat([F.glu(self.g(h), 1), v], 1))


def norms(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Norms(num_classes)


def spectral(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Spectral(num_classes)


def lengths(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Lengths(num_classes)


def of_class(input_shape: tuple[int, ...], num_classes: int, path: str, **arguments: object) -> nn.Module:
    """A network by its class, where the library's own functions take no sizes."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(num_classes=num_classes, **arguments)


def gmlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Spatial gates: half of the units are multiplied by a map over positions of the other half."""
    from timm.layers import GatedMlp
    from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock

    return MlpMixer(
        num_classes, input_shape[1], patch_size=8, embed_dim=24, num_blocks=2, mlp_ratio=2,
        block_layer=SpatialGatingBlock, mlp_layer=GatedMlp,
    )  # fmt: skip


def gmixer(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Gated linear units with SiLU."""
    from timm.layers import GluMlp
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(
        num_classes,
        input_shape[1],
        patch_size=8,
        embed_dim=24,
        num_blocks=2,
        mlp_layer=GluMlp,
        act_layer=nn.SiLU,
    )


def resmlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    from timm.layers import Mlp
    from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock

    return MlpMixer(
        num_classes, input_shape[1], patch_size=8, embed_dim=24, num_blocks=2, mlp_ratio=4, block_layer=ResBlock,
        norm_layer=Affine, mlp_layer=Mlp,
    )  # fmt: skip


def cspnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    from timm.models.cspnet import CspModelCfg, CspNet, CspStagesCfg, CspStemCfg

    stages = CspStagesCfg(depth=(1, 2), out_chs=(16, 32), stride=(1, 2), expand_ratio=2.0)
    return CspNet(CspModelCfg(CspStemCfg(out_chs=16), stages), num_classes=num_classes)


def ghostnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    from timm.models.ghostnet import GhostNet

    return GhostNet([[[3, 16, 16, 0, 1]], [[3, 48, 24, 0, 2]], [[5, 48, 32, 0.25, 1]]], num_classes)


def nf_resnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Standardised weights in place of normalisation."""
    from timm.models.nfnet import NfCfg, NormFreeNet

    cfg = NfCfg((1, 1, 1, 1), (32, 32, 32, 48), stem_type="3x3", stem_chs=16, bottle_ratio=0.5, group_size=8)
    return NormFreeNet(cfg, num_classes, drop_path_rate=0.1)


def mobilevit(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    from timm.models.byobnet import ByobNet
    from timm.models.byobnet import ByoModelCfg as ByobModelCfg
    from timm.models.mobilevit import _inverted_residual_block, _mobilevit_block

    blocks = (_inverted_residual_block(1, 16, 2), _mobilevit_block(1, 24, 2, 24, 4, 2))
    cfg = ByobModelCfg(blocks, stem_chs=16, stem_type="3x3", stem_pool="", downsample="", act_layer="silu")
    return ByobNet(cfg, num_classes)
