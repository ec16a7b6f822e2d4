"""Networks of libraries by name: every classifier of torchvision, and a small one of each of timm's files."""

from __future__ import annotations

from typing import Any

from torch import nn

CLASSES = 7

# Of each of torchvision's families the smallest.
SMALLEST = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t",
    "swin_v2_t", "vgg11", "vit_b_32", "wide_resnet50_2",
)  # fmt: skip
TIMM = (
    "caformer_s18", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convmixer_768_32", "cpubone_nano",
    "crossvit_tiny_240", "cs3darknet_focus_s", "csatv2", "cspnext_tiny", "davit_tiny", "deit_tiny_patch16_224",
    "densenet121", "dla102x", "dpn68", "eca_halonext26ts", "edgenext_xx_small", "efficientformer_l1",
    "efficientformerv2_s0", "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_slim",
    "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_s12", "focalnet_tiny_srf", "gcvit_xxtiny",
    "ghostnet_050", "hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small", "iformer_s",
    "inception_next_atto", "inception_v3", "lcnet_035", "lcnetv2_small", "legacy_seresnet18", "legacy_xception",
    "levit_384_s8", "lowformer_b0", "mixer_s16_224", "mobilevit_xxs", "mvitv2_tiny", "nest_tiny",
    "nextvit_small", "pit_ti_224", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m1",
    "res2net50_14w_8s", "resnest14d", "resnetv2_18", "rexnet_100", "sam2_hiera_tiny", "selecsls42",
    "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_224", "swinv2_tiny_window8_256", "test_byobnet", "test_coatnet", "test_convnext",
    "test_efficientnet", "test_mambaout", "test_nfnet", "test_resnet", "test_vit", "test_vit_relpos",
    "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "visformer_tiny",
    "vit_tiny_r_s16_p8_224", "vitamin_small_224", "volo_d1_224", "xception41", "xcit_nano_12_p8_224",
)  # fmt: skip
LARGE = (  # of timm's files whose smallest network has more than 40 million parameters
    "beit_base_patch16_224", "deepseek_vit_412m", "gemma4_vit_167m_enc", "inception_resnet_v2", "inception_v4",
    "mobilenetv5_base", "naflexvit_base_patch16_siglip", "nasnetalarge", "pnasnet5large", "qwen3_vit_88m",
    "samvit_base_patch16", "vgg11",
)  # fmt: skip


def torchvision() -> list[str]:
    """The names of all classifiers."""
    from torchvision import models

    return list(models.list_models(module=models))


def plain(name: str) -> nn.Module:
    """The network as its library makes it."""
    library, _, inside = name.partition(":")
    if library == "timm":
        import timm

        made: nn.Module = timm.create_model(inside, num_classes=CLASSES)
        return made
    from torchvision import models

    more: dict[str, Any] = {}
    if inside in ("googlenet", "inception_v3"):
        more = {"aux_logits": False, "init_weights": False}
    return models.get_model(inside, weights=None, num_classes=CLASSES, **more)


def image_size(model: nn.Module | None) -> int:
    """The pixels that timm says; 224 else."""
    return 224 if model is None else int(getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224))[1])
