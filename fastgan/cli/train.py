"""``fastgan train``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastgan.cli.program import command, python, shown

if TYPE_CHECKING:
    from fastgan.training import Trainer, TrainResult

__all__ = ["train"]


def image_size(text: str) -> Any:
    """64, or 48x64 as (height, width)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise typer.BadParameter(f"{text!r} is not a size; give 64, or height x width as in 48x64.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def number_or_auto(text: str) -> Any:
    """A whole number, or "auto"."""
    if text != "auto" and not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto; give one of them.")
    return text if text == "auto" else int(text)


def _option(help: str, **more: Any) -> Any:
    return typer.Option(help=help, show_default=False, **more)


def train(
    data: Annotated[str | None, _option("'digits' (the default) or a folder of images.")] = None,
    out: Annotated[str | None, _option("The run's folder; by default the next one under runs/.")] = None,
    model: Annotated[str | None, _option("The family of networks: dcgan.")] = None,
    image_size: Annotated[
        str | None,
        _option("Pixels, as 64 or 48x64 (height first); 32 for the digits.", parser=image_size, metavar="SIZE"),
    ] = None,
    resize: Annotated[str | None, _option("How images get to that size: crop, pad or stretch.")] = None,
    channels: Annotated[str | None, _option("1, 3, 4 or auto.", parser=number_or_auto, metavar="N|auto")] = None,
    mirror: Annotated[bool | None, _option("Mirror images left to right at random.")] = None,
    steps: Annotated[int | None, _option("How long to train, in updates of both networks.")] = None,
    epochs: Annotated[float | None, _option("How long to train, in passes over the images.")] = None,
    batch_size: Annotated[int | None, _option("Images a step.")] = None,
    lr: Annotated[float | None, _option("Adam's learning rate.")] = None,
    lr_g: Annotated[float | None, _option("The generator's, if another.")] = None,
    lr_d: Annotated[float | None, _option("The discriminator's, if another.")] = None,
    beta1: Annotated[float | None, _option("Adam's beta1 (0.5).")] = None,
    latent_dim: Annotated[int | None, _option("Length of the latent vectors (100).")] = None,
    width: Annotated[int | None, _option("Feature maps of the layers next to the image.")] = None,
    seed: Annotated[int | None, _option("Of everything random (0).")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda.")] = None,
    precision: Annotated[str | None, _option("auto, fp32 or bf16.")] = None,
    workers: Annotated[
        str | None, _option("Threads that read images, or auto.", parser=number_or_auto, metavar="N|auto")
    ] = None,
    sample_every: Annotated[int | None, _option("Steps between sample pictures.")] = None,
    checkpoint_every: Annotated[int | None, _option("Steps between checkpoints.")] = None,
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
