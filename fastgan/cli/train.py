"""``fastgan train``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastgan.cli.program import command, python, shown
from fastgan.cli.values import number, size, whole, whole_or_auto

if TYPE_CHECKING:
    from fastgan.training import Trainer, TrainResult

__all__ = ["train"]


def _option(help: str, parser: Any = None, metavar: str | None = None) -> Any:
    return typer.Option(help=help, parser=parser, metavar=metavar, show_default=False)


def _whole(help: str) -> Any:
    return _option(help, whole, "N")


def _number(help: str) -> Any:
    return _option(help, number, "X")


def train(
    data: Annotated[str | None, _option("'digits' (the default) or a folder of images.", metavar="PATH")] = None,
    out: Annotated[
        str | None, _option("The run's folder; by default the next one under runs/.", metavar="PATH")
    ] = None,
    model: Annotated[str | None, _option("The family of networks: dcgan.", metavar="NAME")] = None,
    image_size: Annotated[
        Any, _option("Pixels, as 64 or 48x64, height first; the digits have 32.", size, "SIZE")
    ] = None,
    resize: Annotated[str | None, _option("How images get to that size: crop, pad or stretch.", metavar="HOW")] = None,
    channels: Annotated[Any, _option("1, 3, 4 or auto.", whole_or_auto, "N|auto")] = None,
    mirror: Annotated[bool | None, _option("Mirror images left to right at random.")] = None,
    steps: Annotated[int | None, _whole("How long to train, in updates of both networks.")] = None,
    epochs: Annotated[float | None, _number("How long to train, in passes over the images.")] = None,
    batch_size: Annotated[int | None, _whole("Images a step.")] = None,
    lr: Annotated[float | None, _number("Adam's learning rate.")] = None,
    lr_g: Annotated[float | None, _number("The generator's, if another.")] = None,
    lr_d: Annotated[float | None, _number("The discriminator's, if another.")] = None,
    beta1: Annotated[float | None, _number("Adam's beta1 (0.5).")] = None,
    latent_dim: Annotated[int | None, _whole("Length of the latent vectors (100).")] = None,
    width: Annotated[int | None, _whole("Feature maps of the layers next to the image.")] = None,
    loss: Annotated[
        str | None, _option("non_saturating, minimax, hinge, least_squares or wgan_gp.", metavar="NAME")
    ] = None,
    label_smoothing: Annotated[float | None, _number("Label real images 1 - X.")] = None,
    d_steps: Annotated[int | None, _whole("Discriminator updates a step (1).")] = None,
    accumulate: Annotated[int | None, _whole("Micro-batches a batch, to save memory (1).")] = None,
    penalty_weight: Annotated[float | None, _number("Of wgan_gp's gradient penalty (10).")] = None,
    r1_gamma: Annotated[float | None, _number("Gamma of the R1 penalty (0: none).")] = None,
    r1_every: Annotated[int | None, _whole("Steps between R1 penalties (16).")] = None,
    spectral_norm: Annotated[bool | None, _option("Spectral norm in the discriminator.")] = None,
    seed: Annotated[int | None, _whole("Of everything random (0).")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda.", metavar="NAME")] = None,
    precision: Annotated[str | None, _option("auto, fp32, bf16 or fp16.", metavar="NAME")] = None,
    workers: Annotated[Any, _option("Threads that read images, or auto.", whole_or_auto, "N|auto")] = None,
    sample_every: Annotated[int | None, _whole("Steps between sample pictures.")] = None,
    checkpoint_every: Annotated[int | None, _whole("Steps between checkpoints.")] = None,
) -> None:
    """Train a generator; without arguments, on the embedded digits."""
    given = {name: value for name, value in locals().items() if value is not None}
    from fastgan.training import TrainConfig, Trainer

    trainer = Trainer(TrainConfig(**given))
    report(trainer, trainer.train())


def report(trainer: Trainer, result: TrainResult) -> None:
    """Where the pictures are, and what to do next."""
    from fastgan.training.run_folder import RunFolder

    folder = RunFolder(shown(result.folder))
    if result.stopped_by:
        print(
            f"\nstopped by {result.stopped_by} after step {result.step} of {trainer.total_steps}; "
            f"the checkpoint is {folder.checkpoint(result.step)}"
        )
    else:
        print(f"\ntrained {result.step} steps")
    print(f"before  {folder.sample(0)}")
    print(f"after   {folder.sample(result.step)}")
    print(f"real    {folder.samples / 'real.png'}")
    print("next:")
    print(f"  {command('generate', folder.path, '--count', '64', '--seed', '0', '--out', 'grid.png')}")
    print(f'  {python()} -c "import fastgan; print(fastgan.load({str(folder.path)!r}).generate(16, seed=0).shape)"')
