"""Whose prompt is read next: counted in steps and parts, by no clock."""

import pytest
from cases import picture
from checkpoints import make_official
from questions import user
from watching import Watched, same

import pixtral_mlx as px
from pixtral_mlx.engine.batch import Batch
from pixtral_mlx.engine.capacity import need_of
from pixtral_mlx.model.vision import VisionEncoder

LONG = "A rather long text that is read in many parts. " * 12
STEP = {"prefill_step_size": 8, "reuse": False}
ENDLESS = {"logit_bias": {2: -1e9}, **STEP}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return px.load(make_official(tmp_path_factory.mktemp("turns") / "model"), dtype="float32")


@pytest.fixture
def document(tiny):
    """A picture and a long text."""
    return tiny.encode(user(picture(64, 64), LONG))


@pytest.fixture
def parts(monkeypatch):
    """The numbers of the requests of which a part was read, one after the other."""
    found, read = [], Batch._read
    monkeypatch.setattr(
        Batch, "_read", lambda self, request: found.append(request.number) or read(self, request)
    )
    return found


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures went through the encoder, call by call."""
    found, steps = [], VisionEncoder.steps

    def spy(self, images, *arguments):
        found.append(len(images))
        return steps(self, images, *arguments)

    monkeypatch.setattr(VisionEncoder, "steps", spy)
    return found


def parts_alone(model, prompt, parts):
    watched = Watched(model)
    watched.add(prompt, max_tokens=1, **STEP)
    watched.finish()
    alone = len(parts)
    parts.clear()
    return alone


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("encode", [True, False])
def test_a_short_question_overtakes_a_long_document(tiny, document, parts, others, encode):
    alone = parts_alone(tiny, document, parts)
    assert alone > 30
    watched = Watched(tiny)
    for _ in range(others):
        watched.add("Why?", max_tokens=300, **ENDLESS)
    watched.until(lambda: all(watched.pieces.values()))
    long = watched.add(document, max_tokens=3, **STEP)
    for _ in range(8):
        watched.step()
    short = watched.add(tiny.encode("Hi?") if encode else "Hi?", max_tokens=3, **STEP)
    steps = 0
    while not watched.pieces[short]:
        watched.step()
        steps += 1
    # A part of the document, the question (opened first, if it has to be) and its first token;
    # and with others a token of theirs between.
    assert steps <= (3 if encode else 5) * (2 if others else 1)
    assert not watched.pieces[long]
    watched.until(lambda: {long, short} <= {*watched.ended})
    same(watched.ended[short], tiny.generate("Hi?", max_tokens=3, **STEP))
    same(watched.ended[long], tiny.generate(document, max_tokens=3, **STEP))
    watched.batch.close()


def test_a_long_document_takes_twice_as_many_parts_at_most(tiny, document, parts):
    alone = parts_alone(tiny, document, parts)
    watched = Watched(tiny)
    long = watched.add(document, max_tokens=1, **STEP)
    for _ in range(4 * alone):
        if len(watched.batch._turns) < 4:  # there is always somebody who would overtake
            watched.add(tiny.encode("Hi?"), max_tokens=1, **STEP)
        watched.step()
        if long in watched.ended:
            break
    assert parts.count(long) == alone and len(watched.ended) > 10
    assert alone * 1.5 < len(parts) <= 2 * alone
    watched.batch.close()


def test_the_shortest_goes_first_and_equals_in_their_order(tiny, document):
    watched = Watched(tiny)
    texts = [document, LONG[:200], "One?", "Two?", LONG[:60]]
    numbers = [watched.add(tiny.encode(text) if isinstance(text, str) else text,
                           max_tokens=1, **STEP) for text in texts]  # fmt: skip
    order = []
    while watched.batch.busy:
        order += [number for number, event in watched.step() if isinstance(event, px.Reply)]
    assert order == [numbers[n] for n in (2, 3, 4, 1, 0)]


@pytest.mark.parametrize("first", [1, 2])
def test_sixteen_questions_about_one_picture_encode_it_once(tiny, encoded, first):
    """Also where the first of them has another picture too, and so much more to read."""
    tiny.clear_cache()
    shown, pictures = picture(64, 64, seed=3), [picture(64, 64, seed=n) for n in (3, 4)]
    watched = Watched(tiny)
    watched.add(tiny.encode(user(*pictures[:first], LONG * first)), max_tokens=2)
    for n in range(15):
        watched.add(tiny.encode(user(shown, f"Question {'really ' * n}{n}?")), max_tokens=2)
    ended = watched.finish()
    assert sum(encoded) == first
    assert len(ended) == 16
    # And all but two at most begin where another one has read the picture already.
    assert sum(reply.stats.cached_tokens > 10 for reply in ended.values()) >= 14
    tiny.clear_cache()


def test_who_comes_later_takes_over_what_a_half_read_prompt_has(tiny, parts):
    """The system prompt of a long document is that of a short question."""
    tiny.clear_cache()
    system = {"role": "system", "content": "Be kind. " * 20}
    asked = [[system, {"role": "user", "content": text}] for text in (LONG * 3, "Why?")]
    options = {"max_tokens": 2, "prefill_step_size": 8}
    # A system prompt stands in the last user message, before its text.
    prompts = [tiny.encode(messages) for messages in asked]
    watched = Watched(tiny)
    long = watched.add(prompts[0], **options)
    (request,) = watched.batch._turns
    watched.step()
    watched.until(lambda: request.stream.run.computed > len(prompts[1].tokens))
    short = watched.add(prompts[1], **options)
    ended = watched.finish()
    assert parts.index(short) < len(parts) - parts[::-1].index(long) - 1
    assert ended[short].stats.cached_tokens > len(prompts[1].tokens) - 20
    for number, prompt in zip((long, short), prompts, strict=True):
        same(ended[number], tiny.generate(prompt, reuse=False, **options))
    tiny.clear_cache()


def test_a_follow_up_is_short_whatever_its_prompt(tiny, document):
    tiny.clear_cache()
    tiny.generate(document, max_tokens=4)
    more = tiny.encode(user(picture(64, 64), LONG + "And why?"))
    other = tiny.encode(user(picture(64, 64, seed=9), LONG[:-60]))
    assert len(more.tokens) > len(other.tokens)
    watched = Watched(tiny)
    long = watched.add(other, max_tokens=1, prefill_step_size=8)
    watched.step()
    follow = watched.add(more, max_tokens=1, prefill_step_size=8)
    watched.until(lambda: follow in watched.ended, most=8)
    assert long not in watched.ended
    watched.finish()
    tiny.clear_cache()


def test_all_that_are_half_read_have_to_fit(tiny, document, monkeypatch):
    """There is room for the document and one short question more."""
    need = need_of(tiny, document, 3, prefill_step_size=8)
    usable = need.weights + 2 * need.cache + int(1.3 * need.activations)
    assert need.cache > need.activations
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: usable)
    watched = Watched(tiny)
    watched.add(document, max_tokens=3, **STEP)
    for _ in range(6):
        watched.add(tiny.encode(LONG[:60]), max_tokens=3, **STEP)
    most = 0
    while watched.batch.busy:
        watched.step()
        batch = watched.batch
        begun = [*batch._turns.begun, *batch._alone, *batch._rows.values()]
        assert len(begun) * max((r.most_tokens for r in begun), default=0) <= 2 * need.tokens
        most = max(most, len(begun))
    assert most == 2 and len(watched.ended) == 7


def test_nobody_begins_while_the_first_waits_for_room(tiny, document, monkeypatch):
    need = need_of(tiny, document, 40, prefill_step_size=8)
    usable = need.weights + int(1.5 * need.cache) + need.activations
    assert need.cache > need.activations
    monkeypatch.setattr("pixtral_mlx.engine.capacity.usable_bytes", lambda: usable)
    watched = Watched(tiny)
    running = watched.add(document, max_tokens=40, **ENDLESS)
    watched.until(lambda: watched.pieces[running])
    first = watched.add(document, max_tokens=2, **STEP)
    # Beside the one that runs there is room for this one, which keeps its own keys and values.
    small = watched.add(tiny.encode("Hi?"), max_tokens=2, prompt_lookup_num_tokens=2, **STEP)
    while running not in watched.ended:
        assert not watched.pieces[small]
        watched.step()
    watched.until(lambda: small in watched.ended)
    assert first not in watched.ended
    watched.finish()
