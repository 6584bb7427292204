"""Tiny random BLIP, CLIP and LLaVA checkpoints, built on the spot, that load through the real `from_pretrained` and processors."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)


WORDS = [
    "a",
    "rainy",
    "photograph",
    "taken",
    "at",
    "night",
    "in",
    "daylight",
    "with",
    "rain",
    "streaks",
    "drops",
    "yes",
    "no",
    "reliable",
    "the",
    "user",
    "assistant",
    ":",
    ".",
    ",",
    "?",
    "!",
]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} assistant : {% endif %}"
)
IMAGE_SIZE, PATCH_SIZE = 32, 16
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_clip(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(ends_with_eos=True)
    text = WIDTH | {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = WIDTH | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    CLIPProcessor(_image_processor(), tokenizer).save_pretrained(folder)
    return folder


def tiny_blip(folder: Path) -> Path:
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", *WORDS]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)})
    text = WIDTH | {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "encoder_hidden_size": 32}
    text |= {"bos_token_id": 5, "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3}
    vision = WIDTH | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=24)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    BlipProcessor(BlipImageProcessorPil(size=size), tokenizer).save_pretrained(folder)
    return folder


def tiny_llava(folder: Path, chat_template: str | None = CHAT_TEMPLATE, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(ends_with_eos=False)
    text = LlamaConfig(
        **WIDTH,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = CLIPVisionConfig(**WIDTH, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=4, image_seq_length=4)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor = LlavaProcessor(
        _image_processor(),
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
    processor.save_pretrained(folder)
    return folder


def tiny_tokenizer(ends_with_eos: bool) -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = " </s>" if ends_with_eos else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A{end}", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


def _image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
