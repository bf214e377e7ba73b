"""instructor, as its pages on local servers and on pictures show it."""

import sys

import instructor
from common import BASE_URL, KEY, MODEL, PARTS, PICTURE, QUESTION, TEXT, Rows, Word, tell
from openai import OpenAI
from pydantic import BaseModel

mode = instructor.Mode[sys.argv[3].upper()]
client = instructor.from_openai(OpenAI(base_url=BASE_URL, api_key=KEY), mode=mode)


class Report(BaseModel):
    """Report the number of rows."""

    rows: Word


def ask(kind, *content):
    return {
        "model": MODEL,
        "response_model": kind,
        "messages": [{"role": "user", "content": content}],
    }


def plainly(*content):
    return client.chat.completions.create(**ask(None, *content)).choices[0].message.content


question = (QUESTION, instructor.Image.from_path(PICTURE))
found = client.chat.completions.create(**ask(Rows, *question))
report = client.chat.completions.create(**ask(Report, *question))
*_, partial = client.chat.completions.create_partial(**ask(Report, *question))

tell(
    text=plainly(TEXT),
    picture=plainly(*PARTS),
    schema=isinstance(found, Rows),
    streamed_schema=isinstance(partial, BaseModel) and partial.rows == report.rows,
)
