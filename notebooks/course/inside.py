"""What notebooks 5 to 7 share: experiments on what is inside, and answers to their exercises."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import pixtral_mlx as px
from pixtral_mlx.interpret.maps import block_means

from .exercises import Verdict, whole_numbers
from .figures import short


def some(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to count - 1, the first and the last among them."""
    return sorted({round(n) for n in np.linspace(0, count - 1, min(most, count))})


def answers(model: px.Pixtral, asked: Any, max_tokens: int = 8) -> list[px.Reading]:
    """The model's own greedy answers to questions, read once; those without words are left out.

    They are what other runs are set against: each reads the same answer.
    """
    prompts = [model.encode(q.text, images=q.images) for q in asked]
    found = [(p, model.generate(p, max_tokens=max_tokens).tokens) for p in prompts]
    return [px.read_answer(model, prompt, tokens) for prompt, tokens in found if tokens]


def mean_kl(read: Sequence[px.Reading], edits: Any = (), other: Any = None) -> float:
    """How far the next-word distributions move over some answers: KL in nats a token, mean.

    Arguments:
        edits, other: of the second run, as for `px.compare_runs`.
    """
    moved = [one.against(edits, other=other).kl for one in read]
    return float(np.concatenate(moved).mean())


# Notebook 5 -----------------------------------------------------------------------------------


def check_heads(answer: Any, distances: np.ndarray) -> Verdict:
    """The most local and the most global head.

    Arguments:
        answer: ((layer, head), (layer, head)).
        distances: how far each head looks, shape (layers, heads).
    """
    found = [whole_numbers(one, 2) for one in answer] if _is_pair(answer) else [None]
    if None in found:
        return Verdict(False, "Give two pairs (layer, head), as in ((0, 1), (2, 3)).")
    for layer, head in found:
        if not (0 <= layer < distances.shape[0] and 0 <= head < distances.shape[1]):
            sizes = f"{distances.shape[0]} layers of {distances.shape[1]} heads"
            return Verdict(False, f"There is no layer {layer}, head {head}: {sizes}, from 0.")
    near, far = (float(distances[one]) for one in found)
    nearer, farther = int((distances < near).sum()), int((distances > far).sum())
    seen = f"On average they look {near:.1f} and {far:.1f} patches far;"
    if nearer or farther:
        others = f"nearer than the first look {nearer}, farther than the second {farther}"
        return Verdict(False, f"{seen} of all heads, {others}.")
    return Verdict(True, f"{seen} no head looks nearer, none farther.")


def _is_pair(answer: Any) -> bool:
    return isinstance(answer, (list, tuple)) and len(answer) == 2


# Notebook 6 -----------------------------------------------------------------------------------


def matrix(layer: Any) -> np.ndarray:
    """The weights of a linear layer or an embedding as float32, also of a quantized one."""
    import mlx.core as mx

    weight = layer.weight
    if "scales" in layer:
        weight = mx.dequantize(
            weight, layer.scales, layer.get("biases"), group_size=layer.group_size,
            bits=layer.bits, mode=layer.mode,
        )  # fmt: skip
    return np.array(weight.astype(mx.float32))


def contents(shown: Any) -> list[tuple[str, str]]:
    """(shape or character, colour) of the cell that each patch of a scene lies in, row by row."""
    rows, columns = 2 * shown.layout.rows, 2 * shown.layout.columns
    cells = [shown.layout.cell(r // 2, c // 2) for r in range(rows) for c in range(columns)]
    return [(cell.name, cell.colour) for cell in cells]


def says(word: str, thing: tuple[str, str]) -> bool:
    """Whether a token's text names a cell's thing: its shape, character or colour, or the
    beginning of one in at least three letters."""
    word = word.strip()
    return any(
        name and (word == name or (len(word) > 2 and name.startswith(word))) for name in thing
    )


def labelled(
    shown: Sequence[Any], vectors: Sequence[np.ndarray], which: int
) -> tuple[np.ndarray, list[str]]:
    """The vectors of all patches that show a coloured shape, and what they show.

    Arguments:
        shown: scenes. vectors: of the patches of each, shape (N, D).
        which: 0 for the shape, 1 for the colour.
    """
    things = [thing for one in shown for thing in contents(one)]
    keep = np.array([colour != "" for _, colour in things])
    return np.concatenate(vectors)[keep], [thing[which] for thing in things if thing[1]]


def probe(
    train: tuple[np.ndarray, list[str]], test: tuple[np.ndarray, list[str]], ridge: float = 1e-2
) -> float:
    """A linear probe: the share of test labels that one matrix, fitted by least squares with a
    small penalty, reads out of vectors.

    Arguments:
        train, test: (vectors of shape (N, D), N labels).
    """
    names = sorted(set(train[1]))
    x, mean, scale = train[0], train[0].mean(axis=0), train[0].std(axis=0) + 1e-6
    wanted = np.array([[label == name for name in names] for label in train[1]], float)
    x = np.c_[(x - mean) / scale, np.ones(len(x))].astype(np.float64)
    # (X X' + r I) has a row a vector, (X' X + r I) a row a dimension: take the smaller.
    penalty = ridge * len(x)
    if x.shape[1] <= x.shape[0]:
        fitted = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ wanted)
    else:
        fitted = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), wanted)
    there = np.c_[(test[0] - mean) / scale, np.ones(len(test[0]))] @ fitted
    read = [names[n] for n in there.argmax(axis=-1)]
    return float(np.mean([one == label for one, label in zip(read, test[1], strict=True)]))


def check_settled(answer: Any, lens: Sequence[str]) -> Verdict:
    """The first layer from which on the lens says the word that was chosen.

    Arguments:
        lens: the likeliest word after each layer; the last is the one that was chosen.
    """
    found = whole_numbers([answer], 1)
    if found is None or not 0 <= found[0] < len(lens):
        return Verdict(False, f"Give the number of a layer, from 0 to {len(lens) - 1}.")
    layer, right = found[0], len(lens) - 1
    while right and lens[right - 1] == lens[-1]:
        right -= 1
    if layer < right:
        other = next(n for n in range(layer, right + 1) if lens[n] != lens[-1])
        return Verdict(False, f"After layer {other} the lens says {lens[other]!r}.")
    if layer > right:
        return Verdict(False, f"The lens says {lens[-1]!r} earlier than that.")
    return Verdict(True, f"From layer {right} on the lens says {lens[-1]!r}.")


def check_says(answer: Any, words: Sequence[tuple[str, float]]) -> Verdict:
    """What a patch says.

    Arguments:
        words: (text, probability) by the lens, likeliest first.
    """
    if not isinstance(answer, str) or not answer.strip():
        return Verdict(False, 'Give a word, as in "star".')
    told = ", ".join(f"{text!r} {share:.0%}" for text, share in words[:3])
    place = next((n for n, (text, _) in enumerate(words) if text.strip() == answer.strip()), None)
    if place == 0:
        return Verdict(True, f"The lens says {told}.")
    where = "not on its list" if place is None else f"number {place + 1} on its list"
    return Verdict(False, f"{answer!r} is {where}. The lens says {told}.")


# Notebook 7 -----------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Where one word of an answer looked, and what it lost when parts of the picture were hidden.

    Arguments:
        kind: of the question.
        attention: mean in each block of patches, shape (layers, heads, blocks).
        drops: of the word's log-probability without the block, in nats, shape (blocks,).
        evidence: whether the block holds the evidence, shape (blocks,).
    """

    kind: str
    attention: np.ndarray
    drops: np.ndarray
    evidence: np.ndarray


def see(model: px.Pixtral, question: Any, block: int = 2) -> Seen | None:
    """Ask, and measure the last word of the answer: it carries what was asked for.

    Returns:
        None where there are fewer than four blocks to rank, or the answer is empty.
    """
    prompt, image = model.encode(question.text, images=question.images), question.evidence_image
    reply = model.generate(prompt, max_tokens=40, trace=px.TraceOptions(vision_layers=()))
    if not reply.tokens or reply.trace is None:
        return None
    token = len(reply.tokens) - 1
    marked = np.zeros(tuple(prompt.grids[image]), np.float32)
    for patch in question.patches:
        marked[patch] = 1
    evidence = block_means(marked, block).ravel() > 0
    if len(evidence) < 4:
        return None
    rows = reply.trace.image_rows(token, image)
    attention = np.array([[block_means(one, block).ravel() for one in layer] for layer in rows])
    drops = model.occlusion_map(prompt, token, block, image=image, tokens=reply.tokens)
    return Seen(question.kind, attention, block_means(drops, block).ravel(), evidence)


def agreement(seen: Sequence[Seen], layers: Sequence[int]) -> tuple[float, float, float, float]:
    """How well attention, mean over some layers, ranks the blocks as knock-outs do.

    Returns:
        Mean rank correlation and its standard error; the share of questions in which the block
        that is looked at most is the one that is missed most, and what chance would give.
    """
    rho, hit, chance = [], [], []
    for one in seen:
        attention = one.attention[list(layers)].mean(axis=(0, 1))
        rho.append(px.rank_correlation(attention, one.drops))
        hit.append(attention.argmax() == one.drops.argmax())
        chance.append(1 / len(one.drops))
    found = np.array([value for value in rho if not np.isnan(value)])
    error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
    mean = found.mean() if len(found) else np.nan
    return float(mean), float(error), float(np.mean(hit)), float(np.mean(chance))


def check_block(answer: Any, drops: np.ndarray) -> Verdict:
    """The block of patches that is missed most.

    Arguments:
        answer: its (row, column) among the blocks, counted from one.
        drops: shape (block rows, block columns), in nats.
    """
    found, (rows, columns) = whole_numbers(answer, 2), drops.shape
    if found is None or not (1 <= found[0] <= rows and 1 <= found[1] <= columns):
        return Verdict(False, f"Give (row, column), from (1, 1) to ({rows}, {columns}).")
    own, most = float(drops[found[0] - 1, found[1] - 1]), float(drops.max())
    if own < most:
        more = int((drops > own).sum())
        return Verdict(False, f"Hiding it costs {short(own)} nats; {_blocks(more)} more.")
    return Verdict(True, f"Hiding it costs {short(own)} nats, more than any other.")


def _blocks(count: int) -> str:
    return "one block costs" if count == 1 else f"{count} blocks cost"


def check_rank(answer: Any) -> Verdict:
    """A function from two lists of numbers, none twice, to their rank correlation."""
    if not callable(answer):
        return Verdict(False, "Give a function of two lists of numbers.")
    random = np.random.default_rng(7)
    for effect in (random.normal(size=9), np.exp(4 * random.normal(size=9))):
        attention = np.exp(random.normal(size=9)) + effect / effect.max()
        right = px.rank_correlation(attention, effect)
        try:
            found = float(answer(attention, effect))
        except Exception as error:
            return Verdict(False, f"Give a number: it raises {type(error).__name__}: {error}.")
        if not abs(found - right) < 1e-6:
            seen = f"For nine blocks it gives {found:+.2f}; their rankings agree by {right:+.2f}."
            return Verdict(False, f"{seen} {_why_not_rank(found, attention, effect)}")
    return Verdict(True, "Only the order counts, not how much is looked at or lost.")


def _why_not_rank(found: float, attention: np.ndarray, effect: np.ndarray) -> str:
    once = np.corrcoef(attention.argsort(), effect.argsort())[0, 1]
    if abs(found - np.corrcoef(attention, effect)[0, 1]) < 1e-6:
        return "That is the correlation of the numbers: one large loss decides it. Use their ranks."
    if abs(found - once) < 1e-6:
        return "argsort says which block comes first, not which place a block has: take it twice."
    if abs(found + px.rank_correlation(attention, effect)) < 1e-6:
        return "One of the rankings is the wrong way round."
    return "Put the place of each number in its list for the number, then correlate the places."
