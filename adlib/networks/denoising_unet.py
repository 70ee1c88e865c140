"""The UNet that predicts the noise in an image, as diffusers builds it, in the layout that DDAD's official code trains.

That code follows guided diffusion (Dhariwal and Nichol, NeurIPS 2021). diffusers' UNet2DModel can be given the same
layers, number for number; only heads of attention and initial zeros must be set afterwards.
"""

from torch import nn


def denoising_unet(
    width: int, multipliers: tuple[int, ...], attention: tuple[int, ...], heads: int, dropout: float
) -> nn.Module:
    """diffusers' UNet2DModel as the official network: unet(x [B, 3, H, W], times).sample is the noise in x.

    One level per multiplier, each at half the size of the one before, of width * multiplier channels: two residual
    blocks down and three up, halved and doubled within residual blocks. attention: by how much images are reduced at
    the levels with self-attention. The last convolution of every block and of the network starts at zero.
    """
    from diffusers import UNet2DModel  # takes seconds to import
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    attended = [2**level in attention for level in range(len(multipliers))]
    unet = UNet2DModel(
        block_out_channels=tuple(width * factor for factor in multipliers),
        layers_per_block=2,
        down_block_types=tuple("AttnDownBlock2D" if one else "ResnetDownsampleBlock2D" for one in attended),
        up_block_types=tuple("AttnUpBlock2D" if one else "ResnetUpsampleBlock2D" for one in attended[::-1]),
        downsample_type="resnet",
        upsample_type="resnet",
        norm_num_groups=min(32, width),
        attention_head_dim=width,
        dropout=dropout,
        freq_shift=0,
        flip_sin_to_cos=False,
    )
    for module in unet.modules():
        if isinstance(module, Attention):
            module.heads = heads  # diffusers gives all heads the same width; here every level has as many
            last = module.to_out[0]
        elif isinstance(module, ResnetBlock2D):
            last = module.conv2
        elif module is unet:
            last = unet.conv_out
        else:
            continue
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return unet
