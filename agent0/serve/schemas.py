"""What requests may say. A field that would change the answer but is not supported is refused, never ignored."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from agent0.serve.sampling import Sampling

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
MAX_CHARACTERS = 200_000  # of one message; the context is far shorter


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(Request):
    type: Literal["text"]
    text: str = Field(max_length=MAX_CHARACTERS)


class Message(Request):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)] | list[TextPart]
    name: str | None = None

    def plain(self) -> dict:
        """As the chat template takes it: "developer" is what newer clients call the system."""
        role = "system" if self.role == "developer" else self.role
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": role, "content": content}


def last_question(messages: list[Message]) -> str:
    asked = [message.plain()["content"] for message in messages if message.role == "user"]
    return asked[-1].strip() if asked else ""


class StreamOptions(Request):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatRequest(Request):
    """OpenAI's chat completion, and `store`: false keeps the answer out of memory (a probe)."""

    model: str = "council"
    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    store: bool | None = True
    user: str | None = Field(None, max_length=256)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    # Accepted, since they do not change an answer.
    metadata: dict | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Accepted at the value that changes nothing.
    n: Literal[1] | None = None
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @field_validator("stop")
    @classmethod
    def _stops_are_text(cls, value):
        if value is not None and "" in ([value] if isinstance(value, str) else value):
            raise ValueError("a stop string must not be empty")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _belong_to_logprobs(cls, value, info):
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("set logprobs to true with it")
        return value

    @field_validator("messages")
    @classmethod
    def _somebody_asks(cls, value):
        if not last_question(value):
            raise ValueError("the last user message is missing or empty")
        return value

    def query(self) -> str:
        """What memory keeps as the question: the last user message."""
        return last_question(self.messages)

    def sampling(self) -> Sampling:
        """Greedy where no temperature is named."""
        return Sampling(self.temperature or 0.0, 1.0 if self.top_p is None else self.top_p, self.seed)

    def alternatives(self) -> int | None:
        """How many alternatives to list at each token; None: no log-probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Feedback(Request):
    """A user's verdict on an answer, by the answer's id."""

    id: str = Field(min_length=1, max_length=128)
    success: bool | None = None
    score: float | None = Field(None, ge=0, le=1)
    correction: str | None = Field(None, min_length=1, max_length=MAX_CHARACTERS)

    @model_validator(mode="after")
    def _says_something(self):
        if self.success is None and self.score is None and self.correction is None:
            raise ValueError("give success (true or false), score (0 to 1), or correction (text)")
        return self


class LoadAdapter(Request):
    """vLLM's request to load a LoRA."""

    lora_name: Name
    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: Literal[False] | None = None


class UnloadAdapter(Request):
    lora_name: Name
    lora_int_id: int | None = None


class Route(Request):
    """Who answers requests that name no adapter; `stable` alone ends a canary's part."""

    stable: Name
    canary: Name | None = None
    share: float = Field(0, ge=0, le=1)
    shadow: Name | None = None
