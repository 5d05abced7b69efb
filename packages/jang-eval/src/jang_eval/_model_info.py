"""What a server says of the model that it holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanRow:
    """The modules of one role that are stored alike; see runtime.proto."""

    role: str
    bits: int | None
    group_size: int | None
    modules: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of tokens with a meaning of their own; see runtime.proto."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unknown: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """The server's answer to `GetModelInfo`, field by field; see runtime.proto."""

    name: str
    architecture: str
    profile: str
    bits_per_weight: float
    weight_bytes: int
    context_length: int
    vocabulary_size: int
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    source_name: str
    source_quantization: str
    # Servers and files from before they were there have none of these.
    digest: str = ""
    layout: str = ""
    special_tokens: SpecialTokens = SpecialTokens()
    bits_per_weight_without_embeddings: float = 0.0
    parameters: int = 0
    plan: tuple[PlanRow, ...] = ()
    plan_digest: str = ""


def describe_model(model: ModelInfo) -> str:
    """The model in one line, without what the server does not know."""
    bpw = f"{model.bits_per_weight:.2f} bpw" if model.bits_per_weight > 0 else ""
    source = f"from {model.source_name}" if model.source_name else ""
    size = f"{model.weight_bytes / 1e6:,.1f} MB" if model.weight_bytes else ""
    facts = (model.name, model.profile, bpw, size, source, model.source_quantization)
    return ", ".join(fact for fact in facts if fact)
