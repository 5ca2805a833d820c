"""``fastgan train``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from fastgan.cli.program import command, python, shown
from fastgan.cli.starting import without_garbage_collection
from fastgan.cli.values import number, size, whole, whole_or_auto
from fastgan.errors import counted

if TYPE_CHECKING:
    from fastgan.training import Trainer, TrainResult

__all__ = ["Train", "train"]


class Train(TyperCommand):
    """Proposes an option for what stands alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        alone = super().parse_args(ctx, args)
        if alone:
            ctx.fail(f"Got unexpected extra argument ({' '.join(alone)}); did you mean --data {alone[0]}?")
        return alone


def _option(help: str, parser: Any = None, metavar: str | None = None) -> Any:
    return typer.Option(help=help, parser=parser, metavar=metavar, show_default=False)


def _whole(help: str, example: int) -> Any:
    return _option(help, whole(example), "N")


def _number(help: str, example: str) -> Any:
    return _option(help, number(example), "X")


Steps = Annotated[int | None, _whole("How long to train, in updates of both networks.", 2000)]
Epochs = Annotated[float | None, _number("How long to train, in passes over the images.", "8")]
Lr = Annotated[float | None, _number("Adam's learning rate; by preset.", "2e-4")]
LrG = Annotated[float | None, _number("The generator's learning rate, where not --lr.", "2e-4")]
LrD = Annotated[float | None, _number("The discriminator's learning rate, where not --lr.", "2e-4")]
Device = Annotated[str | None, _option("auto, cpu or cuda.", metavar="NAME")]
Precision = Annotated[str | None, _option("auto, fp32, bf16 or fp16.", metavar="NAME")]
Workers = Annotated[Any, _option("Threads that read images, or auto.", whole_or_auto, "N|auto")]
Cache = Annotated[str | None, _option("Where images are kept: auto, memory or device.", metavar="WHERE")]
SampleEvery = Annotated[int | None, _whole("Steps between sample pictures; 0: only at the beginning and end.", 500)]
CheckpointEvery = Annotated[int | None, _whole("Steps between checkpoints; 0: only at the end.", 1000)]
KeepCheckpoints = Annotated[int | None, _whole("How many of the newest checkpoints are kept (3).", 3)]
TensorBoard = Annotated[bool | None, _option("Write for TensorBoard; by default where it is installed.")]
OnNan = Annotated[
    str | None,
    _option(
        "Where a loss or weight is no finite number: stop (the default; exit status 3), or rollback to the last "
        "checkpoint, three times at most.",
        metavar="stop|rollback",
    ),
]
Deterministic = Annotated[bool | None, _option("Deterministic algorithms only, where a GPU has faster ones.")]


def train(
    data: Annotated[
        str | None, _option("'digits' (the default), 'emoji', a folder or a file of images.", metavar="PATH")
    ] = None,
    out: Annotated[
        str | None, _option("The run's folder; by default the next one under runs/.", metavar="PATH")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out; begin it where there is none.")
    ] = False,
    config: Annotated[
        Path | None,
        _option("Settings from a TOML or JSON file, by the names of these flags with _ for -.", metavar="FILE"),
    ] = None,
    preset: Annotated[
        str | None, _option("digits, emoji, images or cpu-quick; by default that of the data.", metavar="NAME")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps and say what the run would be; write nothing.")
    ] = False,
    model: Annotated[
        str | None, _option("The family of networks: dcgan, mlp, lenet or encoder_decoder.", metavar="NAME")
    ] = None,
    conditional: Annotated[bool | None, _option("Give the networks the class of each image.")] = None,
    task: Annotated[
        str | None,
        _option("With encoder_decoder: denoise, colourise, inpaint or pairs (with --source).", metavar="NAME"),
    ] = None,
    source: Annotated[
        str | None, _option("With pairs: the images that those of --data are made of, same names.", metavar="PATH")
    ] = None,
    image_size: Annotated[
        Any, _option("Pixels, as 64 or 48x64, height first; the digits have 32.", size, "SIZE")
    ] = None,
    resize: Annotated[str | None, _option("How images get to that size: crop, pad or stretch.", metavar="HOW")] = None,
    channels: Annotated[Any, _option("1, 3, 4 or auto.", whole_or_auto, "N|auto")] = None,
    mirror: Annotated[bool | None, _option("Mirror images left to right at random.")] = None,
    steps: Steps = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, _whole("Images a step; by preset.", 64)] = None,
    lr: Lr = None,
    lr_g: LrG = None,
    lr_d: LrD = None,
    beta1: Annotated[float | None, _number("Adam's beta1 (0.5).", "0.5")] = None,
    latent_dim: Annotated[
        int | None, _whole("Length of the latent vectors; by preset (digits 32, images 100).", 100)
    ] = None,
    width: Annotated[int | None, _whole("Feature maps of the layers next to the image; by preset.", 64)] = None,
    head: Annotated[
        str | None, _option("The discriminator's last layer, of dcgan: conv or linear.", metavar="NAME")
    ] = None,
    pooling: Annotated[str | None, _option("How lenet makes maps smaller: max or average.", metavar="NAME")] = None,
    skips: Annotated[bool | None, _option("Let encoder_decoder's decoder see what its encoder found.")] = None,
    loss: Annotated[
        str | None, _option("non_saturating, minimax, hinge, least_squares or wgan_gp.", metavar="NAME")
    ] = None,
    label_smoothing: Annotated[
        float | None, _number("Real images are labelled with 1 minus this; by preset.", "0.1")
    ] = None,
    d_steps: Annotated[int | None, _whole("Discriminator updates a step (1).", 5)] = None,
    accumulate: Annotated[int | None, _whole("Micro-batches a batch, to save memory (1).", 4)] = None,
    penalty_weight: Annotated[
        float | None, _number("Weight of the gradient penalty of --loss wgan_gp (10).", "10")
    ] = None,
    l1_weight: Annotated[
        float | None, _number("Weight of the mean difference from the real image; only with --task (100).", "100")
    ] = None,
    r1_gamma: Annotated[float | None, _number("Gamma of the R1 penalty; 0: none; by preset.", "0.1")] = None,
    r1_every: Annotated[int | None, _whole("Steps between R1 penalties (16).", 16)] = None,
    spectral_norm: Annotated[bool | None, _option("Spectral norm in the discriminator.")] = None,
    ema_decay: Annotated[
        float | None, _number("Decay a step of the averaged generator; 0: none; by preset.", "0.999")
    ] = None,
    seed: Annotated[int | None, _whole("Seed of all random numbers (0).", 0)] = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    cache: Cache = None,
    sample_every: SampleEvery = None,
    checkpoint_every: CheckpointEvery = None,
    keep_checkpoints: KeepCheckpoints = None,
    tensorboard: TensorBoard = None,
    on_nan: OnNan = None,
    deterministic: Deterministic = None,
) -> None:
    """Train a generator; without arguments, on the embedded digits.

    A flag goes before the --config file, the file before the preset, the preset before the defaults.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    for name in ("resume", "config", "dry_run"):
        given.pop(name, None)
    with without_garbage_collection():
        trainer = _trainer(given, config, resume)
    if dry_run:
        from fastgan.training.dry_run import dry_run as measured

        print(measured(trainer))
    else:
        report(trainer, trainer.train(resume=resume))


def _trainer(given: dict[str, Any], config: Path | None, resume: bool) -> Trainer:
    """Of the settings by name, which go before those of the file; of the run in ``out`` where that is to go on."""
    from fastgan.training import TrainConfig, Trainer
    from fastgan.training.config import layered, read_settings
    from fastgan.training.run_folder import RunFolder, check_free

    given = layered(read_settings(config) if config else {}, given)
    begun = "out" in given and RunFolder(given["out"]).is_begun
    if resume and begun:
        return Trainer.resume(given["out"], **given)
    if begun:
        check_free(Path(given["out"]))  # before the data is read
    return Trainer(TrainConfig(**given))


def report(trainer: Trainer, result: TrainResult) -> None:
    """Where the pictures are, and what to do next."""
    from fastgan.evaluation import LEAST
    from fastgan.training.run_folder import RunFolder

    folder = RunFolder(shown(result.folder))
    if result.stopped_by:
        print(
            f"\nstopped by {result.stopped_by} after step {result.step} of {trainer.total_steps}; "
            f"the checkpoint is {folder.checkpoint(result.step)}, and this continues:\n"
            f"  {command('resume', folder.path)}"
        )
    else:
        print(f"\ntrained {counted(result.step, 'step')}")
    print(f"before  {folder.sample(0)}")
    print(f"after   {folder.sample(result.step)}")
    print(f"real    {folder.samples / 'real.png'}")
    print(f"picture {folder.picture}")
    for alarm in result.alarms:
        print(f"alarm   {alarm}")
    print("next:")
    if trainer.config.task is not None:
        print(f"  {command('generate', folder.path, '--source', 'PHOTOS', '--out', 'grid.png')}")
        return
    print(f"  {command('generate', folder.path, '--count', '64', '--seed', '0', '--out', 'grid.png')}")
    if trainer.stream.n is None or trainer.stream.n >= 2 * LEAST:
        print(f"  {command('evaluate', folder.path)}")
    print(f'  {python()} -c "import fastgan; print(fastgan.load({str(folder.path)!r}).generate(16, seed=0).shape)"')
