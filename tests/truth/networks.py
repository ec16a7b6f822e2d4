"""The networks that are held to plain loops: how each is made small, and what is expected not to be taken."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Network:
    """`model` as --model names it, with its arguments, for images of `size` pixels.

    `notes`: what is said of it, a pattern for each of: scores, curvature, dormant; none: nothing is said.
    `groups`: of exchangeable units. `no_product`: exact Hessian-vector products are refused. `post`: whether plain
    hooks can tell the units behind its nonlinearities.
    """

    model: str
    size: int = 32
    args: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 3
    notes: Mapping[str, str] = field(default_factory=dict)
    groups: int | None = None
    no_product: bool = False
    post: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.size, self.size)

    def plain(self, classes: int) -> nn.Module:
        """The network as its library makes it."""
        library, _, name = self.model.partition(":")
        if library == "timm":
            import timm

            return timm.create_model(name, num_classes=classes, in_chans=self.channels, **self.args)
        if library == "torchvision":
            from torchvision import models

            more = {"image_size": self.size} if name.startswith("vit_") else {}
            if name in ("googlenet", "inception_v3"):
                more = {"aux_logits": False, "init_weights": False}
            return models.get_model(name, weights=None, num_classes=classes, **more, **self.args)
        return getattr(importlib.import_module(library), name)(self.shape, classes, **self.args)

    def check(self, what: str, notes: list[str]) -> None:
        """Whether what is said is what is expected."""
        said, expected = "; ".join(notes), self.notes.get(what, "")
        assert re.fullmatch(expected, said, re.DOTALL), f"{what}: {said}"


def small(name: str, groups: int | None = None, size: int = 32, **more: Any) -> Network:
    """One of `own`."""
    return Network(f"truth.own:{name}", size, groups=groups, **more)


def of_class(
    path: str, groups: int | None = None, size: int = 32, *, args: Mapping[str, Any], **more: Any
) -> Network:
    return Network("truth.own:of_class", size, {"path": path, **args}, groups=groups, **more)


def timm(
    name: str,
    groups: int | None = None,
    size: int = 32,
    *,
    args: Mapping[str, Any] | None = None,
    **more: Any,
) -> Network:
    return Network(f"timm:{name}", size, args or {}, groups=groups, **more)


def one_by_one(reason: str, more: str = "") -> dict[str, str]:
    return {"scores": f"gradient norms sample by sample .*, which is slower: {reason}{more}"}


TWICE = {"dormant": "called more than once, and counted once per call: .*"}
TABLES = {"dormant": r".*left out, as they see no samples: .*cpb_mlp.*"}
POSITIONS = {"dormant": r".*left out, as they see no samples: pos_embed.*"}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
FOUR = {"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 24)}
SWIN = {"img_size": 32, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4), "window_size": 4}
LEVIT = {"img_size": 64, "embed_dim": (16, 24, 32), "key_dim": 8, "depth": (1, 1, 1), "num_heads": (2, 2, 2)}

# Small ones of every kind, for the second tier.
QUICK: dict[str, Network] = {
    "vgg": small("tv_vgg", 4),
    "densenet": small("tv_densenet", 15),
    "vision transformer": small("tv_vit", 9),
    "swin of torchvision": small("tv_swin", 18),
    "swin v2 of torchvision": small("tv_swin_v2", 26, notes=TABLES),
    "maxvit": small("tv_maxvit", 25),
    "convnext of torchvision": small("tv_convnext", 5),
    "efficientnet": small("tv_efficientnet", 11),
    "mobilenet v2": small("tv_mobilenet_v2", 7),
    "mobilenet v3": small("tv_mobilenet_v3", 9, no_product=True),
    "regnet": small("tv_regnet", 15),
    "shufflenet": small("tv_shufflenet", 19),
    "mnasnet": small("tv_mnasnet", 25),
    "norms": small("norms", 3, 8, notes=one_by_one("group_norm has no rule")),
    "spectral norm": small("spectral", 1, 8, notes=TWICE),
    "lengths": small("lengths", 3, 8, notes=one_by_one("conv1d has no rule")),
    "gmlp": small("gmlp", 3),
    "gmixer": small("gmixer", 5),
    "resmlp": small("resmlp", 3, notes=one_by_one("addcmul has no rule")),
    "cspnet": small("cspnet", 16),
    "ghostnet": small("ghostnet", 9, no_product=True),
    "standardised weights": small("nf_resnet", 17),
    "mobilevit": small("mobilevit", 25, notes=one_by_one("layer_norm with several entries .*")),
    "resnet": timm("resnet10t", 11, args={"stem_width": 8, **FOUR}),
    "squeeze and excitation": timm("seresnet18", 13, args={"stem_width": 8, **FOUR}),
    "channel attention": timm("ecaresnet26t", 11, args=FOUR, post=False, notes=one_by_one("conv1d has no rule")),
    "resnet v2": timm("resnetv2_50", 13, args={"layers": (1, 1, 1, 1), "channels": (32, 32, 32, 48)}),
    "res2net": timm("res2net50_26w_4s", 30, args={**FOUR, "channels": (16, 16, 16, 24)}, notes=TWICE),
    "levit": timm("levit_128s", 26, 64, args=LEVIT, notes=one_by_one("batch_norm with several entries .*")),
    "levit with convolutions": timm("levit_conv_128s", 26, 64, args=LEVIT),
    "tinyvit": timm("tiny_vit_5m_224", 20, 64, args={
        "embed_dims": (16, 24, 32, 40), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_sizes": (4, 4, 4, 2),
    }, notes=one_by_one("layer_norm with several entries .*")),
    "efficientvit of msra": timm("efficientvit_m0", 32, 64, args={
        "img_size": 64, "embed_dim": (16, 32, 32), "key_dim": (4, 4, 4), "depth": (1, 1, 1), "num_heads": (2, 2, 2),
    }, notes=TWICE),
    "efficientvit of mit": timm("efficientvit_b0", 10, args={
        "widths": (8, 8, 16, 16, 32), "depths": (1, 1, 1, 1), "head_dim": 8, "head_widths": (32, 32),
    }, post=False, notes=TWICE),
    "swin": timm("swin_tiny_patch4_window7_224", 14, args=SWIN),
    "swin v2": timm("swinv2_tiny_window8_256", 11, args=SWIN, notes=TABLES),
    "quick gelu": timm("vit_base_patch32_clip_quickgelu_224", 9, args=VIT),
    "layer scale": timm("deit3_small_patch16_224", 9, args=VIT),
    "cait": timm("cait_xxs24_224", 21, args=VIT),
    "davit": timm("davit_tiny", 18, args={
        "embed_dims": (16, 32), "depths": (1, 1), "num_heads": (2, 4), "window_size": 4,
    }),
    "transformer in transformer": timm("tnt_s_patch16_224", 18, args={
        "img_size": 32, "embed_dim": 24, "inner_dim": 8, "depth": 2, "num_heads_outer": 3,
    }, notes=one_by_one("conv2d with several entries .*")),
    "mlp mixer": of_class("timm.models.mlp_mixer.MlpMixer", 5, args={
        "img_size": 32, "patch_size": 8, "embed_dim": 24, "num_blocks": 2,
    }),
    "convmixer": of_class("timm.models.convmixer.ConvMixer", 3, args={"dim": 16, "depth": 2, "patch_size": 4},
                          notes=one_by_one("conv2d has no rule")),
    "metaformer": of_class("timm.models.metaformer.MetaFormer", 8, args={
        "depths": (1, 1, 1, 1), "dims": (16, 16, 24, 32),
    }, notes={"dormant": r"not looked at, .*act\.pow.*"}),
    "convnext v2": timm("convnextv2_atto", 8, args={"depths": (1, 1, 1, 1), "dims": (16, 16, 24, 24)},
                        notes=one_by_one("addcmul has no rule")),
}  # fmt: skip

# The others of the libraries, for `make truth`.
WIDE: dict[str, Network] = {
    "eva": timm("eva02_tiny_patch14_224", 5, args=VIT),
    "beit": timm("beit_base_patch16_224", 5, args=VIT, notes=one_by_one("scaled_dot_product_attention has no rule")),
    "convit": timm("convit_tiny", 9, args={**VIT, "local_up_to_layer": 1}),
    "xcit": timm("xcit_nano_12_p16_224", 20, args={"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3},
                 notes={**one_by_one("repeat has no rule"), **POSITIONS}),
    "efficientformer": timm("efficientformer_l1", 13, 224, args={
        "depths": (1, 1, 1, 2), "embed_dims": (8, 12, 16, 24),
    }),
    "coat": timm("coat_lite_tiny", 24, args={
        "img_size": 32, "embed_dims": (16, 24, 32, 40), "serial_depths": (1, 1, 1, 1), "num_heads": 8,
    }),
    "pit": timm("pit_ti_224", 14, args={
        "img_size": 32, "base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 2, 4), "patch_size": 8, "stride": 4,
    }),
    "twins": timm("twins_svt_small", 15, args={
        "img_size": 32, "embed_dims": (16, 32), "num_heads": (2, 4), "depths": (2, 1), "wss": (4, 4),
        "sr_ratios": (4, 2), "mlp_ratios": (2, 2),
    }),
    "sequencer": timm("sequencer2d_s", 24, args={
        "img_size": 32, "layers": (1, 1, 1, 1), "embed_dims": (16, 24, 24, 24), "hidden_sizes": (4, 4, 4, 4),
    }, notes=one_by_one("lstm takes a parameter in a list", "; one sample at a time: torch.func refused: .*")),
    "edgenext": timm("edgenext_xx_small", 20, args={
        "dims": (16, 24, 24, 32), "depths": (1, 1, 1, 1), "heads": (2, 2, 2, 2),
    }, notes={"dormant": "not looked at, .*pos_embd.*"}),
    "repvit": timm("repvit_m0_9", 9, args={"embed_dim": (16, 24), "depth": (1, 1)}),
    "starnet": timm("starnet_s050", 5, args={"base_dim": 8, "depths": (1, 1)}),
    "focalnet": of_class("timm.models.focalnet.FocalNet", 16, args={"embed_dim": 16, "depths": (1, 1, 1, 1)}),
    "nest": of_class("timm.models.nest.Nest", 15, args={
        "img_size": 32, "embed_dims": (16, 24, 32), "num_heads": (2, 2, 2), "depths": (1, 1, 1), "num_levels": 3,
    }),
    "mambaout": timm("mambaout_femto", 8, args={"depths": (1, 1), "dims": (16, 24)}, post=False),
    "inception next": timm("inception_next_atto", 21, args={"depths": (1, 1, 1, 1), "dims": (16, 24, 24, 32)}),
    "visformer": timm("visformer_tiny", 15, args={
        "img_size": 32, "init_channels": 8, "embed_dim": 24, "depth": (1, 1, 1), "num_heads": 3,
    }),
    "hiera": timm("hiera_tiny_224", 10, args={
        "img_size": 32, "embed_dim": 16, "num_heads": 2, "stages": (1, 1), "q_pool": 1, "mask_unit_size": (4, 4),
    }),
    "convnext": timm("convnext_atto", 8, args={"depths": (1, 1, 1, 1), "dims": (16, 16, 24, 24)}),
    "ghostnet of timm": timm("ghostnet_050", 31, no_product=True),
    "lcnet": timm("lcnet_035", 17, no_product=True),
    "mobilenet v3 of timm": timm("mobilenetv3_small_050", 26, no_product=True),
    "mobilevit of timm": timm("mobilevit_xxs", 61, notes=one_by_one("layer_norm with several entries .*")),
    "mobilevit v2": timm("mobilevitv2_050", 36, notes=one_by_one("group_norm has no rule")),
    "nf_resnet26": timm("nf_resnet26", 21),
    "shvit": timm("shvit_s1", 45, 64, notes=one_by_one("group_norm has no rule")),
    "gcvit": of_class("timm.models.gcvit.GlobalContextVit", 29, 64, args={
        "img_size": 64, "window_ratio": (16, 16, 32, 32), "embed_dim": 16, "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 2, 4),
    }),
    "dla": timm("dla46_c", notes=TWICE),
    "repghostnet": timm("repghostnet_050", no_product=True),
    "sknet": timm("skresnet18", args={"channels": (16, 16, 16, 24), "layers": (1, 1, 1, 1)}),
    "resnest": timm("resnest14d", args=FOUR),
    "tresnet": timm("tresnet_m", args={"layers": (1, 1, 1, 1)}),
    "densenet of timm": timm("densenet121", args={"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
    "relative positions": timm("vit_relpos_small_patch16_224", args=VIT, notes={
        **one_by_one("scaled_dot_product_attention has no rule"),
        "dormant": "left out, as they see no samples: .*rel_pos.*",
    }),
    "hybrid": timm("vit_tiny_r_s16_p8_224", args={"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3},
                   notes=one_by_one("group_norm has no rule")),
    "samvit": timm("samvit_base_patch16_224", args=VIT, notes=one_by_one("einsum takes a parameter in a list")),
    "swin v2 cr": timm("swinv2_cr_tiny_224", args=SWIN, notes={"dormant": ".*clamp_min.*meta_mlp.*"}),
    "efficientformer v2": timm("efficientformerv2_s0", args={
        "img_size": 32, "depths": (1, 1, 1, 1), "embed_dims": (16, 16, 24, 32),
    }),
    "fasternet": timm("fasternet_t0"),
    "hgnet": timm("hgnetv2_b0"),
    "regnet of timm": timm("regnetx_002"),
    "hardcorenas": timm("hardcorenas_a", no_product=True),
    "vovnet": timm("ese_vovnet19b_slim_dw", no_product=True),
    "pvt v2": timm("pvt_v2_b0", args={
        "embed_dims": (16, 24, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2),
    }, post=False),
    "efficientvim": timm("efficientvim_m1", notes=one_by_one("conv1d has no rule")),
    "lowformer": timm("lowformer_b0", notes=one_by_one("group_norm has no rule")),
}  # fmt: skip

# All classifiers of torchvision up to 30 million parameters, and their groups. Larger ones take a machine minutes each.
TORCHVISION = {
    "squeezenet1_1": 25, "squeezenet1_0": 25, "shufflenet_v2_x0_5": 80, "shufflenet_v2_x1_0": 86,
    "shufflenet_v2_x1_5": 88, "shufflenet_v2_x2_0": 90, "mnasnet0_5": 25, "mnasnet0_75": 25, "mnasnet1_0": 25,
    "mnasnet1_3": 25, "mobilenet_v2": 25, "mobilenet_v3_small": 27, "mobilenet_v3_large": 30, "regnet_y_400mf": 69,
    "regnet_x_400mf": 71, "regnet_y_800mf": 61, "regnet_x_800mf": 53, "regnet_x_1_6gf": 59, "regnet_y_1_6gf": 113,
    "regnet_x_3_2gf": 80, "regnet_y_3_2gf": 89, "efficientnet_b0": 40, "efficientnet_b1": 53, "efficientnet_b2": 53,
    "efficientnet_b3": 59, "efficientnet_b4": 71, "efficientnet_v2_s": 75, "googlenet": 57, "inception_v3": 94,
    "densenet121": 120, "densenet169": 168, "densenet201": 200, "densenet161": None, "resnet18": 12, "resnet34": 20,
    "resnet50": 37, "resnext50_32x4d": 53, "swin_t": 52, "swin_v2_t": 76, "convnext_tiny": 22,
}  # fmt: skip


def _torchvision(name: str) -> Network:
    notes = {"resn": TWICE, "swin_v2": TABLES}
    return Network(
        f"torchvision:{name}",
        96 if name == "inception_v3" else 32,
        notes=next((said for start, said in notes.items() if name.startswith(start)), {}),
        groups=TORCHVISION[name],
        no_product=name.startswith("mobilenet_v3"),
        post=not name.startswith("squeezenet"),  # a ReLU behind its last layer belongs to its outputs
    )


# Those that take longest, each beside a quick one of its kind.
WIDE |= {
    name: QUICK.pop(name)
    for name in ("levit", "levit with convolutions", "tinyvit", "efficientvit of msra", "efficientvit of mit",
                 "mnasnet", "mobilevit", "shufflenet", "regnet", "mobilenet v3", "mobilenet v2", "maxvit", "swin",
                 "swin v2", "swin v2 of torchvision", "res2net", "resnet v2", "channel attention", "cait", "davit",
                 "transformer in transformer", "metaformer", "standardised weights", "convnext v2")
}  # fmt: skip
WIDE |= {f"torchvision's {name}": _torchvision(name) for name in TORCHVISION}
