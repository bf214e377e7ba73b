"""Rows to learn from, and the options of a training of seconds."""

import json

from pixtral_mlx.mini import scene

OPTIONS = {"iters": 6, "batch_size": 2, "steps_per_eval": 3, "save_every": 2, "warmup": 1}


def write_rows(folder, seeds, name="train", *, kinds=("wide", "colour", "at")):
    """Rows about scenes of one to four cells, in which "wide" is called "broad"."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.jsonl").open("w") as file:
        for seed in seeds:
            for question in scene(seed, 1 + seed % 2, 1 + seed // 2 % 2).questions:
                if question.kind in kinds:
                    names = [f"{seed}-{i}-{question.kind}.png" for i in range(len(question.images))]
                    for path, image in zip(names, question.images, strict=True):
                        image.save(folder / path)
                    answer = question.answer.replace("wide", "broad")
                    row = {"prompt": question.text, "answer": answer, "images": names}
                    file.write(json.dumps(row) + "\n")
    return folder
