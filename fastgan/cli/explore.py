"""``fastgan explore``"""

from __future__ import annotations

from typing import Annotated

import typer

from fastgan.cli.loading import Run, load_gan
from fastgan.cli.values import whole
from fastgan.errors import UserError

__all__ = ["explore"]

HERE = "127.0.0.1"


def explore(
    run: Run = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Where the page is served; by default the first free port from 7860 on.",
            parser=whole(7860),
            metavar="N",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Who may see it: this machine only, or with 0.0.0.0 all that reach it.", metavar="NAME")
    ] = HERE,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Walk between a generator's images, in the browser (pip install 'fastgan[explore]')."""
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"port must be a whole number from 1 to 65535, but it is {port}; give another one.")
    from fastgan.explore_page import build, check_gradio, check_host, serve

    check_gradio()
    check_host(host)
    gan = load_gan(run)
    from fastgan.explore import Explorer

    page = build(Explorer(gan))
    print(f"{serve(page, host=host, port=port, browser=browser)}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
