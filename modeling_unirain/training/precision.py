"""Where bfloat16 pays."""

import torch


def computes_in_bf16(device: str | torch.device) -> bool:
    """Whether a device has instructions for bfloat16. A CPU that has none emulates it, in ten times the time of float32 (a step
    of the released size on a Zen 3)."""
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
