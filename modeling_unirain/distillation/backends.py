"""The two presets, and what each option puts in their place."""

from modeling_unirain.distillation.arguments import BackendArguments
from modeling_unirain.distillation.captioning import AttributeCaptioner, PretrainedCaptioner
from modeling_unirain.distillation.embedding import (
    ClipImageEmbedder,
    ClipTextEmbedder,
    MiniLmTextEmbedder,
    RainFeatureEmbedder,
)
from modeling_unirain.distillation.endpoint import EndpointJudge
from modeling_unirain.distillation.judging import DEFAULT_PROMPT, Prompt, VlmJudge
from modeling_unirain.distillation.local_judges import PairIntegrityJudge, RainLayerJudge, ReferenceDistanceJudge
from modeling_unirain.distillation.pipeline import Backends
from modeling_unirain.distillation.protocols import Judge


PAPER_CAPTIONER = "Salesforce/blip-image-captioning-large"
PAPER_ENCODER = "openai/clip-vit-large-patch14"
PAPER_JUDGES = (
    "OpenGVLab/InternVL2_5-8B-MPO-hf",  # InternVL2.5-8B as transformers loads it; its processor needs torchvision
    "llava-hf/llava-v1.6-mistral-7b-hf",  # LLaVA-NeXT-7B
    "HuggingFaceTB/SmolVLM-Instruct",  # 2.2 B, Idefics3's classes, in place of MobileVLM-3B, which transformers does not load
)
LOCAL_JUDGES: dict[str, type[Judge]] = {
    judge.name: judge for judge in (ReferenceDistanceJudge, RainLayerJudge, PairIntegrityJudge)
}


def build_backends(arguments: BackendArguments) -> Backends:
    """The preset's backends, with the options' in their place. Nothing is loaded yet.

    Raises:
        ValueError: a prompt file or a judge that cannot be.
    """
    paper, device = arguments.preset == "paper", arguments.device
    captioner = arguments.captioner or (PAPER_CAPTIONER if paper else None)
    text = arguments.text_embedder or (PAPER_ENCODER if paper else None)
    image = arguments.image_embedder or (PAPER_ENCODER if paper else None)
    prompt = Prompt.from_file(arguments.prompt_file or DEFAULT_PROMPT)
    names = arguments.judges or (PAPER_JUDGES if paper else tuple(LOCAL_JUDGES))
    return Backends(
        captioner=PretrainedCaptioner(captioner, device) if captioner else AttributeCaptioner(),
        text_embedder=ClipTextEmbedder(text, device) if text else MiniLmTextEmbedder(device),
        image_embedder=ClipImageEmbedder(image, device) if image else RainFeatureEmbedder(device=device),
        judges=tuple(_judge(name, prompt, arguments) for name in names),
    )


def _judge(name: str, prompt: Prompt, arguments: BackendArguments) -> Judge:
    if name in LOCAL_JUDGES:
        return LOCAL_JUDGES[name]()
    if "://" in name:
        url, _, model = name.partition("#")
        return EndpointJudge(url, model, prompt, arguments.concurrency)
    return VlmJudge(name, prompt, arguments.device)
