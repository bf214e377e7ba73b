"""What can be asked of a training."""

from dataclasses import dataclass

from ..checks import check_fields, option

NARROW = 512
"""Decoders up to this width learn at `RATES[0]`, wider ones at `RATES[1]`."""
RATES = (4e-4, 1e-4)

FUSED_BITS = 8
"""Of quantized matrices to which an adapter was added, if they had fewer."""


@dataclass(frozen=True)
class TuningOptions:
    """How an adapter is trained.

    Arguments:
        fine_tune_type: "lora", or "dora", which also learns the length of every row.
        num_layers: how many of the decoder's layers learn, counted from the last; None: all.
        rank: of the two small matrices beside each large one.
        scale: what their product is multiplied by.
        projector: whether the projector learns too.
        head: whether the output matrix learns too: for words that the model has never written.
        learning_rate: of Adam; None: 4e-4 for decoders up to 512 wide, 1e-4 for wider ones.
        batch_size: rows that are read together.
        grad_accumulation_steps: batches of a step.
        iters: steps.
        warmup: steps in which the learning rate grows; after them it falls, to nothing at the end.
        max_seq_length: tokens of a row, pictures included; longer rows are refused.
        image_budget: the most tokens that each picture may take; None: as many as it has.
        seed: of the first matrices, of the order of rows, and of the rows that validation takes.
        steps_per_eval: steps between two validations.
        save_every: steps between two states on the disk.
        grad_checkpoint: compute each layer twice rather than keep what is inside.
        picture_gigabytes: what encoded pictures may take on the disk while it runs.
        force: begin even if memory looks too small.

    Raises:
        ValueError: a value out of range.
    """

    fine_tune_type: str = option(
        "lora",
        help="lora, or dora, which also learns the length of every row",
        kind=str,
        choices=("lora", "dora"),
    )
    num_layers: int | None = option(
        None,
        help="layers of the decoder that learn, counted from the last; None: all",
        kind=int,
        range=(0, None),
        unit="N",
    )
    rank: int = option(
        8,
        help="rank of the two small matrices beside each large one",
        kind=int,
        range=(1, 1024),
        unit="N",
    )
    scale: float = option(
        4.0,
        help="what the product of the small matrices is multiplied by",
        kind=float,
        range=(1e-3, 1e3),
        unit="X",
    )
    projector: bool = option(False, help="let the projector learn too", kind=bool)
    head: bool = option(
        False,
        help="let the output matrix learn too, for words that the model has never written",
        kind=bool,
    )
    learning_rate: float | None = option(
        None,
        help="learning rate of Adam; None: 4e-4 for decoders up to 512 wide, 1e-4 for wider ones",
        kind=float,
        range=(1e-9, 1.0),
        unit="X",
    )
    batch_size: int = option(
        8, help="rows that are read together", kind=int, range=(1, 4096), unit="N"
    )
    grad_accumulation_steps: int = option(
        1, help="batches of a step", kind=int, range=(1, 4096), unit="N"
    )
    iters: int = option(600, help="steps", kind=int, range=(1, 10_000_000), unit="N")
    warmup: int = option(
        10,
        help="steps in which the learning rate grows; then it falls, to nothing at the end",
        kind=int,
        range=(0, 1_000_000),
        unit="N",
    )
    max_seq_length: int = option(
        8192,
        help="tokens of a row, pictures included; longer rows are refused",
        kind=int,
        range=(8, None),
        unit="TOKENS",
    )
    image_budget: int | None = option(
        None,
        help="the most tokens that each picture may take; None: as many as it has",
        kind=int,
        range=(2, None),
        unit="TOKENS",
    )
    seed: int = option(
        0,
        help="seed of the first matrices, the order of rows, and the rows kept for validation",
        kind=int,
        range=(0, 2**63 - 1),
        unit="N",
    )
    steps_per_eval: int = option(
        100, help="steps between two validations", kind=int, range=(1, None), unit="N"
    )
    save_every: int = option(
        50, help="steps between two states on the disk", kind=int, range=(1, None), unit="N"
    )
    grad_checkpoint: bool = option(
        False, help="compute each layer twice rather than keep what is inside", kind=bool
    )
    picture_gigabytes: float = option(
        10.0,
        help="what encoded pictures may take on the disk while it runs",
        kind=float,
        range=(0, 1e6),
        unit="GB",
    )
    force: bool = option(False, help="begin even if memory looks too small", kind=bool)

    def __post_init__(self):
        check_fields(self)

    def rate(self, width: int) -> float:
        """The learning rate for a decoder of this width."""
        if self.learning_rate is not None:
            return self.learning_rate
        return RATES[0] if width <= NARROW else RATES[1]

    def rate_at(self, step: int, width: int) -> float:
        """The learning rate of a step, counted from zero."""
        highest = self.rate(width)
        if step < self.warmup:
            return highest * (step + 1) / self.warmup
        return highest * (self.iters - step) / max(self.iters - self.warmup, 1)
