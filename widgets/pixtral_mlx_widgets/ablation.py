"""`Ablation`: the same question with and without some parts of the model or the picture."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import traitlets

import pixtral_mlx as px
from pixtral_mlx import edits as e
from pixtral_mlx.interpret import words_of

from .session import Session, sentence
from .word_view import SECONDS_BETWEEN_WORDS, Stopped, WordView

SEED = 0
"""Of the permutation that "shuffle" deals the patches out by."""


class Ablation(WordView):
    """Two runs side by side: with everything, and with the chosen edits; and what changed.

    >>> ablation = Ablation(session)                     # after an answer
    >>> ablation.edits = [px.edits.NoBreakTokens()]      # or choose with the mouse
    >>> ablation.run(); ablation.wait(60)["first_difference"]

    Arguments:
        source: a `Session`, or an image with `model`, which is then asked `question`.

    Traits, beside those of `WordView`:
        edits: `px.edits` objects of the second run, built from what the reader chose; Python may
            set them too.
        choices: what the reader chose, beside patches: {"breaks", "mask": bool, "shuffle":
            [image], "heads": [[where, layer, head]], "layers": [[where, layer]]}.
        patches: painted, to be hidden: [[image, row, column]].
        names: the edits in words.
        second: words of the second run so far.
        result: of the last finished run, see `Ablation.wait`; empty before.
    """

    name = "ablation"
    edits = traitlets.List()
    choices = traitlets.Dict().tag(sync=True)
    patches = traitlets.List().tag(sync=True)
    names = traitlets.List().tag(sync=True)
    second = traitlets.List().tag(sync=True)
    result = traitlets.Dict().tag(sync=True)

    def __init__(self, source: Any = None, model: Any = None, **options: Any):
        self._others: list[px.edits.Edit] = []  # that no control can show
        self._setting, self._thread = False, None
        super().__init__(source, model, **options)
        self.observe(self._chosen, ["choices", "patches"])
        self.observe(self._given, "edits")
        if self.edits:
            self._given()
        elif self.choices or self.patches:
            self._chosen()

    # What is taken away ------------------------------------------------------------------------

    def _chosen(self, _: Any = None) -> None:
        """The reader chose: build the edits."""
        if not self._setting:
            self._set(edits=[*build(self.choices, self.patches), *self._others])

    def _given(self, _: Any = None) -> None:
        """Python set the edits: show them in the controls."""
        if not self._setting:
            grids = [(i["rows"], i["columns"]) for i in self.facts.get("images", ())]
            choices, patches, self._others = understand(self.edits, grids)
            self._set(choices=choices, patches=patches)

    def _set(self, **values: Any) -> None:
        self._setting = True
        try:
            for name, value in values.items():
                setattr(self, name, value)
            self.names = [in_words(edit) for edit in self.edits]
        finally:
            self._setting = False

    def _choose_what_exists(self, facts: Mapping[str, Any]) -> None:
        super()._choose_what_exists(facts)
        if self.facts and facts["epoch"] != self.facts["epoch"]:
            self.result, self.second = {}, []
        grids = [(i["rows"], i["columns"]) for i in facts["images"]]
        inside = [
            p for p in self.patches
            if p[0] < len(grids) and p[1] < grids[p[0]][0] and p[2] < grids[p[0]][1]
        ]  # fmt: skip
        if grids and inside != self.patches:
            self.patches = inside

    # The second run ----------------------------------------------------------------------------

    def do_run(self) -> dict:
        """The reader wants the second run."""
        self.run()
        return {}

    def run(self) -> None:
        """Start the second run and return at once; the session's own answer stays.

        Raises:
            RuntimeError: there is no answer yet, nothing is chosen, or something is under way.
        """
        session = self._answered()
        if session.busy:
            raise RuntimeError("the answer is still being written: wait for it, or stop it")
        if "stage" in self.work:
            raise RuntimeError("something else is being measured: wait for it, or stop it")
        if not self.edits:
            raise RuntimeError("nothing is taken away: choose something first")
        self._stop_work.clear()
        self.second = []
        self.work = {"what": "run", "stage": "reading the prompt", "done": 0, "total": 0}
        edits = (*self._edits(), *self.edits)
        self._thread = threading.Thread(
            target=self._run, args=(session, session.epoch, edits, self.names), daemon=True
        )
        self._thread.start()

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the second run.

        Returns:
            The trait `result`: {"first", "second": texts, "words": [{"text", "tokens", "p",
            "kl", "first_logprob", "second_logprob"}] of the first answer, "second_words",
            "first_difference": number of the first word that differs or None, "kl": nats a word,
            "first_logprob", "second_logprob": of the whole first answer in both runs, in nats,
            "names"}. Empty if the run was stopped.

        Raises:
            TimeoutError: it takes longer. RuntimeError: it failed.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"no second answer after {timeout} s: wait longer")
        if "problem" in self.work:
            raise RuntimeError(self.work["problem"])
        return self.result

    def _run(self, session: Session, epoch: int, edits: tuple, names: list[str]) -> None:
        """On a thread of its own: write the second answer, then compare."""
        problem = ""
        try:
            asked: Any = session.asked
            first: Any = session.reply
            second = self._write(session, epoch, edits)
            self.work = {"what": "run", "stage": "comparing", "done": 0, "total": 0}
            comparison = session.look(
                lambda model: px.compare_runs(
                    model,
                    asked,
                    first.tokens,
                    edits,
                    before=self._edits(),
                    progress=self._progress(model),
                )
            ).result()
            if session.epoch == epoch:
                self.result = compared(self.words, first, second, comparison, names)
        except Stopped:
            pass
        except BaseException as error:
            problem = sentence(error)
        self.work = {"problem": problem} if problem else {}
        self._save_soon()

    def _write(self, session: Session, epoch: int, edits: tuple) -> tuple[px.Reply, list[dict]]:
        """The second answer, and its words; they appear while it is written."""
        options = {**session.options, "edits": edits, "trace": False}
        stream = session.worker.stream(session.asked, **options, progress=self._reading)
        pieces, sent = [], 0.0
        for piece in stream:
            if self._stop_work.is_set() or session.busy or session.epoch != epoch:
                stream.stop()
            pieces.append(piece.text)
            if time.monotonic() - sent > SECONDS_BETWEEN_WORDS:
                self.second, sent = _words(pieces), time.monotonic()
        self.second = _words(pieces)
        if self._stop_work.is_set() or session.busy or session.epoch != epoch:
            raise Stopped
        return stream.reply, self.second

    def _reading(self, done: int, total: int) -> None:
        stage = "reading the prompt" if done < total else "writing the second answer"
        self.work = {
            "what": "run",
            "stage": stage,
            "done": done % total,
            "total": total * (done < total),
        }
        if self._stop_work.is_set():
            raise Stopped

    def questions_shown(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """The pictures, and where the chosen word looked."""
        yield from super().questions_shown()
        chosen = self.at()
        if chosen is None or chosen < 0 or not self.facts.get("images"):
            return
        at = {"layer": self.layer, "head": self.head, "image": self.image}
        yield "look", {"token": chosen, **at}
        yield from self._questions_known([chosen])


def build(choices: Mapping[str, Any], patches: Sequence[Sequence[int]]) -> list[px.edits.Edit]:
    """The edits that a reader's choices mean, in an order that does not depend on the clicks."""
    edits: list[px.edits.Edit] = []
    if choices.get("breaks"):
        edits.append(e.NoBreakTokens())
    if choices.get("mask"):
        edits.append(e.NoVisionMask())
    for image in sorted(choices.get("shuffle", ())):
        edits.append(e.ShufflePatches(SEED, image))
    for image in sorted({p[0] for p in patches}):
        own = sorted((p[1], p[2]) for p in patches if p[0] == image)
        edits.append(e.MaskPatches(own, image))
    heads = [tuple(h) for h in choices.get("heads", ())]
    for where, layer in sorted({h[:2] for h in heads}):
        edits.append(
            e.KnockOutHeads(where, layer, sorted(h[2] for h in heads if h[:2] == (where, layer)))
        )
    layers = [tuple(one) for one in choices.get("layers", ())]
    for where in sorted({one[0] for one in layers}):
        edits.append(e.SkipLayers(where, sorted(one[1] for one in layers if one[0] == where)))
    return edits


def understand(
    edits: Sequence[px.edits.Edit], grids: Sequence[tuple[int, int]]
) -> tuple[dict[str, Any], list[list[int]], list[px.edits.Edit]]:
    """The reverse of `build`: choices, patches, and the edits that no control can show."""
    choices: dict[str, Any] = {"heads": [], "layers": [], "shuffle": []}
    patches, others = [], []
    for edit in edits:
        match edit:
            case e.NoBreakTokens():
                choices["breaks"] = True
            case e.NoVisionMask():
                choices["mask"] = True
            case e.ShufflePatches(seed=seed, image=image) if seed == SEED:
                choices["shuffle"].append(image)
            case e.MaskPatches(patches=own, image=image) if image < len(grids):
                columns = grids[image][1]
                patches += [
                    [image, *(divmod(p, columns) if isinstance(p, int) else p)] for p in own
                ]
            case e.KnockOutHeads(where=where, layer=layer, heads=heads):
                choices["heads"] += [[where, layer, head] for head in heads]
            case e.SkipLayers(where=where, layers=layers):
                choices["layers"] += [[where, layer] for layer in layers]
            case _:
                others.append(edit)
    return choices, patches, others


def in_words(edit: px.edits.Edit) -> str:
    """An edit as a reader would say it after "without"."""

    def some(name: str, numbers: Sequence[int]) -> str:
        return f"{name}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"

    match edit:
        case e.NoBreakTokens():
            return "break tokens"
        case e.NoVisionMask():
            return "the mask between pictures"
        case e.ShufflePatches(image=image):
            return f"the order of the patches of picture {image + 1}"
        case e.MaskPatches(patches=patches, image=image):
            plural = "es" if len(patches) > 1 else ""
            return f"{len(patches)} patch{plural} of picture {image + 1}"
        case e.KnockOutHeads(where=where, layer=layer, heads=heads):
            return f"{some('head', heads)} of {where} layer {layer}"
        case e.SkipLayers(where=where, layers=layers):
            return some(f"{where} layer", layers)
    return repr(edit)


def compared(
    words: Sequence[Mapping[str, Any]],
    first: px.Reply,
    second: tuple[px.Reply, list[dict]],
    comparison: "px.Comparison",
    names: Sequence[str],
) -> dict[str, Any]:
    """What changed, word by word; see `Ablation.wait`."""
    reply, second_words = second
    rows = [
        {
            **word, "kl": float(comparison.kl[word["tokens"]].sum()),
            "first_logprob": float(comparison.first[word["tokens"]].sum()),
            "second_logprob": float(comparison.second[word["tokens"]].sum()),
        }
        for word in words
    ]  # fmt: skip
    mine, other = [w["text"] for w in words], [w["text"] for w in second_words]
    return {
        "first": first.text, "second": reply.text, "words": rows, "second_words": second_words,
        "first_difference": first_difference(mine, other), "kl": [row["kl"] for row in rows],
        "first_logprob": float(comparison.first.sum()),
        "second_logprob": float(comparison.second.sum()), "names": list(names),
    }  # fmt: skip


def first_difference(first: Sequence[str], second: Sequence[str]) -> int | None:
    """Number of the first word that differs, or that only one of the texts has; None if equal."""
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return number
    return None if len(first) == len(second) else min(len(first), len(second))


def _words(pieces: Sequence[str]) -> list[dict[str, Any]]:
    return [{"text": word.text, "tokens": word.tokens, "p": 1.0} for word in words_of(pieces)]
