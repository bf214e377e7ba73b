"""From a `Prompt` to an answer, reusing what earlier calls left.

It knows neither where a prompt or a model came from nor who reads the answer. In reading order:

`options`: what can be asked of an answer
`schema`: which rules of a JSON schema can be enforced
`form`: the form that an answer keeps, and an answer read by it
`reply`: what an answer is made of: plain records
`engine`: what answers are made with: a model, its tokenizer, and what earlier calls left
`generate`: one answer, token by token
`run`: what it starts from, and what it leaves
`answer`: one answer being written: whole characters, stop strings, the clock
`sampling`: which token comes next
`grammar`: which tokens a form allows, and choosing among them
`lookup`: drafts copied from the prompt, checked in one pass
`features`: what the images give to the decoder, layer by layer
`content`: what keys, values and features depend on
`prompt_cache`: keys, values and features of earlier calls
`prompt_folder`: the same in a folder, for other processes
`capacity`: will it fit?
`request`: one of many: what it asks for, and how far it has come
`turns`: whose prompt is read next
`batch`: many requests at once: the one scheduler
`batch_stream`: many requests in one call
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .capacity import RESERVE_BYTES, kv_bytes_per_token

__all__ = ["RESERVE_BYTES", "kv_bytes_per_token"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "capacity": "RESERVE_BYTES kv_bytes_per_token",
    },
)
