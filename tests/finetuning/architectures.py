"""Networks built as well-known ones are, with few numbers: what counts is which module lies in which."""

import warnings
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

DIM = 8


class Of(nn.Module):
    """A module of a kind of its own, that holds others under names."""

    def __init__(self, /, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs), nn.BatchNorm2d(outputs), nn.SiLU())


def basic_block(inputs: int, outputs: int) -> Of:
    block = Of(conv1=conv(inputs, outputs), bn1=nn.BatchNorm2d(outputs), relu=nn.ReLU(),
               conv2=conv(outputs, outputs), bn2=nn.BatchNorm2d(outputs))  # fmt: skip
    if inputs != outputs:
        block.downsample = nn.Sequential(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
    return block


def resnet() -> Of:
    """As torchvision's."""
    return Of(
        conv1=conv(3, 4), bn1=nn.BatchNorm2d(4), relu=nn.ReLU(), maxpool=nn.MaxPool2d(2),
        layer1=nn.Sequential(basic_block(4, 4), basic_block(4, 4)),
        layer2=nn.Sequential(basic_block(4, 8), basic_block(8, 8)),
        avgpool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(8, 3),
    )  # fmt: skip


def attention_block() -> Of:
    return Of(
        norm1=nn.LayerNorm(DIM),
        attn=Of(qkv=nn.Linear(DIM, 3 * DIM), proj=nn.Linear(DIM, DIM)),
        norm2=nn.LayerNorm(DIM),
        mlp=Of(fc1=nn.Linear(DIM, DIM), fc2=nn.Linear(DIM, DIM)),
    )


def token() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, 1, DIM))


def vit() -> Of:
    """As timm's."""
    return Of(
        cls_token=token(), pos_embed=token(), patch_embed=Of(proj=conv(3, DIM), norm=nn.Identity()),
        blocks=nn.Sequential(*[attention_block() for _ in range(3)]), norm=nn.LayerNorm(DIM), head=nn.Linear(DIM, 3),
    )  # fmt: skip


def torchvision_vit() -> Of:
    layers = OrderedDict((f"encoder_layer_{n}", attention_block()) for n in range(2))
    encoder = Of(pos_embedding=token(), dropout=nn.Dropout(), layers=nn.Sequential(layers), ln=nn.LayerNorm(DIM))
    heads = nn.Sequential(OrderedDict(head=nn.Linear(DIM, 3)))
    return Of(conv_proj=conv(3, DIM), class_token=token(), encoder=encoder, heads=heads)


def swin() -> Of:
    merging = Of(reduction=nn.Linear(4 * DIM, DIM), norm=nn.LayerNorm(4 * DIM))
    features = nn.Sequential(
        nn.Sequential(conv(3, DIM), nn.Identity(), nn.LayerNorm(DIM)),
        nn.Sequential(attention_block(), attention_block()),
        merging,
        nn.Sequential(attention_block()),
    )
    return Of(features=features, norm=nn.LayerNorm(DIM), head=nn.Linear(DIM, 3))


def convnext() -> Of:
    def block() -> Of:
        return Of(gamma=nn.Parameter(torch.ones(DIM)), conv_dw=conv(DIM, DIM), norm=nn.LayerNorm(DIM),
                  mlp=Of(fc1=nn.Linear(DIM, DIM), fc2=nn.Linear(DIM, DIM)))  # fmt: skip

    def stage(first: bool) -> Of:
        down = nn.Identity() if first else nn.Sequential(nn.LayerNorm(DIM), conv(DIM, DIM))
        return Of(downsample=down, blocks=nn.Sequential(block(), block()))

    return Of(stem=nn.Sequential(conv(3, DIM), nn.LayerNorm(DIM)), stages=nn.Sequential(stage(True), stage(False)),
              head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.LayerNorm(DIM), nn.Linear(DIM, 3)))  # fmt: skip


def bert() -> Of:
    def layer() -> Of:
        inner = Of(query=nn.Linear(DIM, DIM), key=nn.Linear(DIM, DIM), value=nn.Linear(DIM, DIM))
        output = Of(dense=nn.Linear(DIM, DIM), LayerNorm=nn.LayerNorm(DIM))
        return Of(attention=Of(self=inner, output=output), intermediate=Of(dense=nn.Linear(DIM, DIM)),
                  output=Of(dense=nn.Linear(DIM, DIM), LayerNorm=nn.LayerNorm(DIM)))  # fmt: skip

    embeddings = Of(words=nn.Embedding(9, DIM), positions=nn.Embedding(9, DIM), LayerNorm=nn.LayerNorm(DIM))
    encoder = Of(layer=nn.ModuleList([layer(), layer()]))
    body = Of(embeddings=embeddings, encoder=encoder, pooler=Of(dense=nn.Linear(DIM, DIM)))
    return Of(bert=body, dropout=nn.Dropout(), classifier=nn.Linear(DIM, 3))


def gpt() -> Of:
    """Its output is its input embedding, transposed."""
    words = nn.Embedding(9, DIM)
    layers = nn.ModuleList([attention_block(), attention_block()])
    body = nn.ModuleDict({"wte": words, "wpe": nn.Embedding(9, DIM), "h": layers, "ln_f": nn.LayerNorm(DIM)})
    head = nn.Linear(DIM, 9, bias=False)
    head.weight = words.weight
    return Of(transformer=body, lm_head=head)


def squeeze(width: int) -> Of:
    return Of(avgpool=nn.AdaptiveAvgPool2d(1), fc1=conv(width, 2, 1), fc2=conv(2, width, 1))


def torchvision_efficientnet() -> Of:
    def mb(inputs: int, outputs: int) -> Of:
        return Of(block=nn.Sequential(conv_norm(inputs, outputs), squeeze(outputs), conv_norm(outputs, outputs)))

    features = nn.Sequential(
        conv_norm(3, 4), nn.Sequential(mb(4, 4)), nn.Sequential(mb(4, 8), mb(8, 8)), conv_norm(8, 8)
    )
    return Of(
        features=features, avgpool=nn.AdaptiveAvgPool2d(1), classifier=nn.Sequential(nn.Dropout(), nn.Linear(8, 3))
    )


def efficientnet_lite() -> Of:
    def mb(inputs: int, outputs: int) -> Of:
        return Of(_expand_conv=conv(inputs, outputs), _bn0=nn.BatchNorm2d(outputs),
                  _project_conv=conv(outputs, outputs), _bn1=nn.BatchNorm2d(outputs))  # fmt: skip

    blocks = nn.ModuleList([nn.ModuleList([mb(4, 4)]), nn.ModuleList([mb(4, 8), mb(8, 8)])])
    return Of(stem=conv_norm(3, 4), blocks=blocks, head=conv_norm(8, 8), dropout=nn.Dropout(), fc=nn.Linear(8, 3))


def vgg() -> Of:
    features = nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 8), nn.BatchNorm2d(8), nn.ReLU())
    classifier = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    return Of(features=features, avgpool=nn.AdaptiveAvgPool2d(1), classifier=classifier)


def unet() -> Of:
    down = nn.ModuleList([conv_norm(3, 4), conv_norm(4, 8)])
    return Of(down=down, middle=conv_norm(8, 8), up=nn.ModuleList([conv_norm(8, 4)]), out=conv(4, 2, 1))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def recurrent() -> nn.ModuleDict:
    return nn.ModuleDict({"embed": nn.Embedding(9, 4), "memory": nn.LSTM(4, 4, 2), "out": nn.Linear(4, 2)})


def transformer() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Transformer(DIM, 2, 2, 2, DIM)


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "ResNet": (resnet, ["conv1 bn1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]),
    "ViT": (vit, ["cls_token pos_embed patch_embed", "blocks.0", "blocks.1", "blocks.2 norm", "head"]),
    "ViT of torchvision": (
        torchvision_vit,
        ["class_token conv_proj", "encoder.pos_embedding encoder.layers.encoder_layer_0",
         "encoder.layers.encoder_layer_1 encoder.ln", "heads.head"],
    ),
    "Swin": (
        swin,
        ["features.0.0 features.0.2", "features.1.0", "features.1.1", "features.2", "features.3.0 norm", "head"],
    ),
    "ConvNeXt": (
        convnext,
        ["stem.0 stem.1", "stages.0.blocks.0", "stages.0.blocks.1 stages.1.downsample.0", "stages.1.downsample.1",
         "stages.1.blocks.0", "stages.1.blocks.1 head.1", "head.2"],
    ),
    "BERT": (bert, ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier"]),
    "GPT": (gpt, ["transformer.wpe", "transformer.h.0", "transformer.h.1 transformer.ln_f", "lm_head"]),
    "EfficientNet of torchvision": (
        torchvision_efficientnet,
        ["features.0.0 features.0.1", "features.1.0", "features.2.0", "features.2.1", "features.3.0 features.3.1",
         "classifier.1"],
    ),
    "EfficientNet lite": (
        efficientnet_lite, ["stem.0 stem.1", "blocks.0.0", "blocks.1.0", "blocks.1.1", "head.0 head.1", "fc"]
    ),
    "VGG": (vgg, ["features.0", "features.3 features.4", "classifier.0", "classifier.3"]),
    "U-Net": (unet, ["down.0.0 down.0.1", "down.1.0 down.1.1", "middle.0 middle.1", "up.0.0 up.0.1", "out"]),
    "MLP": (mlp, ["0 1", "3", "5"]),
    "LSTM": (recurrent, ["embed", "memory", "out"]),
    "Transformer": (
        transformer,
        ["encoder.layers.0", "encoder.layers.1 encoder.norm", "decoder.layers.0", "decoder.layers.1 decoder.norm"],
    ),
    "one layer": (lambda: nn.Linear(2, 2), ["weight bias"]),
    "a bare parameter": (lambda: Of(scale=token()), ["scale"]),
    "wrapped": (lambda: Of(model=vgg(), loss=nn.CrossEntropyLoss()),
                ["model.features.0", "model.features.3 model.features.4", "model.classifier.0", "model.classifier.3"]),
    "wrapped twice": (lambda: Of(model=Of(net=mlp())), ["model.net.0 model.net.1", "model.net.3", "model.net.5"]),
    "compiled": (lambda: Of(net=torch.compile(mlp(), backend="eager")), ["net.0 net.1", "net.3", "net.5"]),
    "a body and a head": (
        lambda: Of(body=resnet(), head=nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))),
        ["body.conv1 body.bn1", "body.layer1.0", "body.layer1.1", "body.layer2.0", "body.layer2.1", "body.fc", "head.0",
         "head.2"],
    ),
    "names that look like globs": (
        lambda: nn.ModuleDict({name: nn.Linear(2, 2) for name in ("a[0]", "a0", "*")}),
        ["a[0]", "a0", "*"],
    ),
}  # fmt: skip
