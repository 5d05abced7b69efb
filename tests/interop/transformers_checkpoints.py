"""Random models of transformers, as it saves them, with the logits that torch gives them.

    python transformers_checkpoints.py MODELS.json OUT

MODELS.json holds configs by name; OUT/NAME gets the directory and logits.npy. Run by
test_transformers.py, in an environment that has torch and transformers.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

# Wrappers first: a text model may be found under the wrapper's name too.
CLASSES = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
# Towers of full size are not saved.
SMALL = 1_000_000
# Its vision tower needs timm and torchvision; without it, the names in the wrapper are these.
TEXT_ONLY = {"gemma3n": ("Gemma3nForCausalLM", "model.", "model.language_model.")}
IDS = torch.tensor([[5, 9, 200, 3, 77, 12, 319, 31, 8, 5, 6, 2, 19, 300]])


def build(config: Any) -> Any:
    """The model of a config, with random weights of a trained model's size."""
    kind = config.model_type
    if kind in TEXT_ONLY:
        config, name = config.text_config, TEXT_ONLY[kind][0]
    else:
        name = CLASSES[kind]
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.1 * noise)
            elif not name.endswith("A_log"):
                parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return model


def save(model: Any, config: Any, directory: Path) -> None:
    """As transformers saves the whole model."""
    _, old, new = TEXT_ONLY.get(config.model_type, ("", "", ""))
    state = {
        new + name.removeprefix(old): value
        for name, value in model.state_dict().items()
        if value.numel() < SMALL
    }
    model.save_pretrained(directory, state_dict=state)
    config.save_pretrained(directory)


def main() -> None:
    """Make what the command line asks for."""
    transformers.logging.set_verbosity_error()
    configs: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    for name, written in configs.items():
        directory = Path(sys.argv[2]) / name
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(written))
        config = AutoConfig.from_pretrained(directory, attn_implementation="eager")
        model = build(config)
        with torch.no_grad():
            logits = model(input_ids=IDS, use_cache=False).logits[0]
        save(model, config, directory)
        np.save(directory / "logits.npy", logits.numpy())


if __name__ == "__main__":
    main()
