"""pixtral-mini: a Pixtral small enough to travel with the package, and the world it was taught.

`scene` makes pictures with questions and answers; `python -m pixtral_mlx.mini train` trains,
`python -m pixtral_mlx.mini evaluate` measures; the trained checkpoint lies in `CHECKPOINT`.
Drawing scenes takes NumPy and Pillow alone. In reading order:

`scenes`: a picture, what is in it, and questions about it
`scene_layout`: what is where: a grid of cells
`drawing`: how shapes and characters look
`questions`: words, answers, and where in the picture the evidence is
`pages`: scenes on small numbered pages, and questions about them
`charts`: bar charts, and questions about them
`recipes`: pictures, questions and answers that the adapters were taught with
`demo_scene`: the scene that `demo` shows and `doctor` asks about
`words`: the tokenizer: every word one token
`lessons`: batches to learn from
`stages`: the eight stages of training
`learning`: what a step computes: losses, gradients, optimizers
`state`: the files of a training run
`curves`: its loss and accuracy, drawn
`processes`: other processes that draw or ask
`export`: from a training state to a checkpoint, and back
`evaluation`: how often it is right
`novelty`: what evaluation shows that training never drew
`looking`: whether an answer looked at what it should
`report`: what an evaluation found, as text
"""

from ..checkpoint.names import MINI
from .scenes import Question, Scene, scene

CHECKPOINT = MINI
"""Folder of the trained model, in the official layout."""

__all__ = ["CHECKPOINT", "Question", "Scene", "scene"]
