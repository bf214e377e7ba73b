"""From what people send to a `Prompt`.

It knows messages, pictures, PDFs and tokenizers, and neither weights nor answers. In reading order:

`messages`: what was sent, checked message by message, with every picture opened
`clients`: what other programs call the same things
`sources`: where pictures may come from
`checked_http`: HTTP within that rule
`image_source`: where they do come from, bounded in size and time
`file_kind`: what a file is, by its first bytes
`image_options`: how they are prepared
`size_limit`: what a picture may take once it is decoded
`tiff`: where its pages are
`image`: open, check, orient
`depth`: how many bits grey really has
`resize`: cubic interpolation, a few rows at a time
`pixels`: to the size of whole patches, normalised
`page_choice`: which pages are meant
`pdf_drawing`: the process in which PDFium works
`pdf_process`: that process, and what it is asked
`pdf`: a PDF's pages, drawn
`pages`: of PDFs and TIFFs, each a picture
`found`: pictures before they are decoded
`prepared`: those that were prepared before
`stream_decoder`: ids of an answer in, its text out
`tokenizer`: messages in, a `Prompt` out
`tekken`: what a `tekken.json` says, checked first
`tokenizer_file`: which tokenizer belongs to a model folder
`tools`: functions that an answer may call, and the calls as they are read
`placeholders`: words and pictures that only take up room, to measure with
"""

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .pdf import open_pages, page_numbers
    from .pixels import picture_file, preprocess, shrunk, to_pixels
    from .placeholders import gradient, text_prompt
    from .sources import Sources

__all__ = [
    "Sources", "gradient", "open_pages", "page_numbers", "picture_file", "preprocess", "shrunk",
    "text_prompt", "to_pixels",
]  # fmt: skip

__getattr__, __dir__ = lazily(
    __name__,
    {
        "pdf": "open_pages page_numbers",
        "pixels": "picture_file preprocess shrunk to_pixels",
        "placeholders": "gradient text_prompt",
        "sources": "Sources",
    },
)
