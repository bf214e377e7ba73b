"""Pictures of a conversation are decoded, resized and digested once, and never taken for others."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints import official_params
from image_files import encoded, picture
from pdfs import make_locked, make_pdf
from questions import user

import pixtral_mlx as px
from pixtral_mlx.cli.chat import Chat
from pixtral_mlx.engine import content
from pixtral_mlx.engine.prompt_cache import PICTURES_SHARE
from pixtral_mlx.inputs import tokenizer
from pixtral_mlx.inputs.prepared import PreparedPictures, prepared_key
from pixtral_mlx.model.config import PixtralConfig


@pytest.fixture
def work(monkeypatch):
    """How many pictures have been prepared and digested."""
    done = SimpleNamespace(prepared=0, digested=0)
    preprocess, digest = tokenizer.preprocess, content._digest

    def preparing(*arguments):
        done.prepared += 1
        return preprocess(*arguments)

    def digesting(pixels):
        done.digested += 1
        return digest(pixels)

    monkeypatch.setattr(tokenizer, "preprocess", preparing)
    monkeypatch.setattr(content, "_digest", digesting)
    return done


def pixels(model, source, **options) -> bytes:
    return model.encode("?", images=[source], **options).images[0].tobytes()


def test_a_second_turn_neither_prepares_nor_digests(model, work, tmp_path):
    photo, scan = tmp_path / "photo.png", tmp_path / "scan.pdf"
    photo.write_bytes(encoded(picture(60, 40)))
    scan.write_bytes(make_pdf(2))
    messages = user(photo, scan, "What?")
    options = {"max_tokens": 2, "image_budget": 12}
    first = model.generate(messages, **options)
    assert (work.prepared, work.digested) == (3, 3)
    messages += [{"role": "assistant", "content": "That."}, *user("And?")]
    second = model.generate(messages, **options)
    assert (work.prepared, work.digested) == (3, 3)
    assert second.stats.cached_tokens > first.stats.prompt_tokens - 3
    model.clear_cache()
    fresh = model.generate(messages, **options, reuse=False)
    assert fresh.tokens == second.tokens and work.prepared == 6


def test_chat_prepares_a_picture_once(model, work, tmp_path, capsys):
    (tmp_path / "photo.png").write_bytes(encoded(picture(60, 40)))
    chat = Chat(model, None, {"max_tokens": 2, "min_p": 0.0}, px.ImageOptions())
    chat.handle(f"/image {tmp_path / 'photo.png'}")
    for question in ("What is this?", "And now?", "Again?"):
        chat.handle(question)
    assert (work.prepared, work.digested) == (1, 1)


def test_a_file_that_changes_is_read_anew(model, tmp_path):
    path = tmp_path / "photo.png"
    found = []
    for shade in (0, 255, 0):
        path.write_bytes(encoded(picture(60, 40).point(lambda value, shade=shade: shade)))
        found.append(pixels(model, path))
    assert found[0] == found[2] != found[1]


def test_each_option_and_page_has_pixels_of_its_own(model, work):
    grey = encoded(picture(200, 90, "L").convert("I;16").point(lambda value: value * 200))
    photo = picture(200, 90)
    photo.getexif()[0x0112] = 6
    photo = encoded(photo, "JPEG", exif=photo.getexif())
    smooth, small = {"resize": "antialiased"}, {"image_budget": 12}
    found = [
        *(pixels(model, photo, image_options=px.ImageOptions(**o)) for o in ({}, smooth, small)),
        pixels(model, photo, image_options=px.ImageOptions(orient=False)),
        *(pixels(model, grey, image_options=px.ImageOptions(grey16=g)) for g in ("scale", "clip")),
        *(image.tobytes() for image in model.encode("?", images=[make_pdf(2)]).images),
    ]
    assert len({*found}) == len(found) == work.prepared == 8
    kept = model.prompt_cache.pictures
    vision = PixtralConfig.from_params(official_params(vision={"image_size": 32})).vision
    assert vision != model.config.vision
    keys = {prepared_key(b"x", px.ImageOptions(), v) for v in (vision, model.config.vision)}
    assert len(keys) == 2 and len(kept) == 8


def test_what_is_kept_does_not_open_what_is_locked(model):
    locked = make_locked("secret", (50, 50))
    model.encode("?", images=[locked], pdf_password="secret")
    for password in (None, "other"):
        with pytest.raises(px.ImageError, match="locked"):
            model.encode("?", images=[locked], pdf_password=password)


def test_pictures_in_memory_may_change_between_two_questions(model):
    image = picture(60, 40)
    before = pixels(model, image)
    image.paste((0, 0, 0), (0, 0, 60, 40))
    assert pixels(model, image) != before
    assert len(model.prompt_cache.pictures) == 0


def test_pixels_stay_within_their_part_of_the_bytes(model, work):
    cache, files = model.prompt_cache, [encoded(picture(60 + n, 40)) for n in range(4)]
    each = model.encode("?", images=files[:1]).images[0].nbytes
    model.clear_cache()
    cache.max_bytes = PICTURES_SHARE * each * 2
    for file in files:
        pixels(model, file)
        assert cache.pictures.nbytes == cache.nbytes <= 2 * each
    work.prepared = 0
    pixels(model, files[2]), pixels(model, files[3])
    assert work.prepared == 0
    pixels(model, files[0])  # in place of the one used longest ago
    pixels(model, files[3])
    assert work.prepared == 1
    cache.shrink(PICTURES_SHARE * each)
    assert cache.nbytes == each
    cache.max_bytes = PICTURES_SHARE * each - 1
    model.clear_cache()
    pixels(model, files[0])
    assert cache.nbytes == len(cache.pictures) == 0


def test_nobody_writes_to_what_later_prompts_have(model):
    prompt = model.encode("?", images=[encoded(picture(60, 40))])
    with pytest.raises(ValueError, match="read-only"):
        prompt.images[0][...] = 0
    own = np.array(prompt.images[0])
    names = content.image_digest(own), content.image_digest(prompt.images[0])
    own += 1
    assert names[0] == names[1] != content.image_digest(own)


def test_digests_go_with_their_pixels(model):
    prompt = model.encode("?", images=[picture(60, 40)])
    place = id(prompt.images[0])
    content.image_digest(prompt.images[0])
    assert place in content._digests
    del prompt
    assert place not in content._digests


def test_threads_keep_within_the_bytes():
    kept = PreparedPictures(lambda: 40_000)
    arrays = [np.zeros(n, np.uint8) for n in range(1000, 5000, 100)]

    def keep(start: int) -> None:
        for array in arrays[start:] + arrays[:start]:
            kept.keep(array.size, array)
            kept.find(array.size - 100)

    threads = [threading.Thread(target=keep, args=(5 * n,)) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert kept.nbytes == sum(a.nbytes for a in arrays if kept.find(a.size) is not None) <= 40_000


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (([1, 3, 10, 10, 12, 7], {2: "a"}), 5),
        (([1, 3, 10, 10, 12, 7], {2: "b"}), 2),
        (([1, 4, 10, 10, 12, 7], {2: "b"}), 1),
        (([1, 3, 4, 10, 10, 12], {3: "b"}), 2),
        (([1, 3, 5], {}), 2),
        (([1, 3], {}), 2),
        (([10, 10, 12], {0: "a"}), 0),
    ],
)
def test_what_two_prompts_share_ends_where_text_or_picture_differs(other, shared):
    mine = content.Content(np.array([1, 3, 10, 10, 12, 6, 6]), {2: "a"})
    theirs = content.Content(np.array(other[0]), other[1])
    assert mine.shared(theirs) == theirs.shared(mine) == shared
    assert mine.shared(mine) == 7
