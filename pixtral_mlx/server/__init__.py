"""HTTP: other programs ask the model as they ask OpenAI's or Mistral's, and people on a page.

It must not know how an answer is computed: a dialect turns a request into a `Question`, `Service`
gives it a place and hands it to the model's thread, and the dialect writes what comes. There is one
scheduler (`engine.batch`, behind `Worker`) and one parser of messages (`inputs.messages`).

`options`: what a server is told when it starts
`refusals`: what is answered instead of an answer
`metrics`: what is counted
`host`: the model, opened and closed, and its names
`looks`: where a token looked, as JSON
`answers`: places, preparing, cancelling
`wire`: requests off the wire, answers onto it
`fields`: fields of a request as options of a generation
`chat`: chat completions, OpenAI's and Mistral's
`responses`: OpenAI's responses
`completions`: a text that goes on
`ocr`: Mistral's OCR
`extract`: documents to rows of data
`anthropic`: Anthropic's messages
`ollama`: Ollama's chat and answers
`guard`: hosts, origins, keys
`page`: the page for people
`bodies`: what requests hold in memory
`app`: the routes
`run`: serving until a signal
"""
