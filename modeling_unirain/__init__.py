"""UniRain: one network that removes rain streaks and raindrops, by day and by night.

Importing this package registers it with the Auto classes of transformers.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageToImage

from .checkpoint_unirain import resolve_checkpoint
from .configuration_unirain import UniRainConfig
from .derainer import Derainer, load_derainer
from .image_processing_unirain import UniRainImageProcessor
from .modeling_unirain import UniRainForImageDeraining
from .pipeline_unirain import UniRainPipeline
from .types import RainType


AutoConfig.register("unirain", UniRainConfig, exist_ok=True)
AutoModel.register(UniRainConfig, UniRainForImageDeraining, exist_ok=True)
AutoModelForImageToImage.register(UniRainConfig, UniRainForImageDeraining, exist_ok=True)
AutoImageProcessor.register(UniRainConfig, image_processor_classes={"pil": UniRainImageProcessor}, exist_ok=True)

# What is saved carries its code and loads with `trust_remote_code=True` where this package is not installed.
UniRainConfig.register_for_auto_class()
UniRainForImageDeraining.register_for_auto_class("AutoModelForImageToImage")
UniRainImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = [
    "Derainer",
    "RainType",
    "UniRainConfig",
    "UniRainForImageDeraining",
    "UniRainImageProcessor",
    "UniRainPipeline",
    "load_derainer",
    "resolve_checkpoint",
]
