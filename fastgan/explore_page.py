"""The page of ``fastgan explore``, made of gradio. It asks nothing of any other machine."""

# Without annotations from __future__: gradio tells by its class that a function wants the event, and no text names it.

import importlib.util
import os
import socket
from typing import Any

from fastgan.errors import UserError
from fastgan.explore import Explorer, Point

__all__ = ["build", "check_gradio", "check_host", "serve"]

WHOLE = 4.0  # standard deviations: a truncation that cuts nothing off
ALL = "all in turn"
HOUR = 3600  # seconds: how long shown pictures are kept, and how often that is looked after
ASK = "Choose images: one to look at, or several to walk from each to the next."


def check_gradio() -> None:
    """Raises UserError where gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("explore needs gradio, which is not installed; `pip install 'fastgan[explore]'` gets it.")


def check_host(host: str) -> None:
    """Raises UserError where no page can be served: gradio would wait for it to answer, and never end."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"host is {host!r}, where nothing can be served ({getattr(error, 'strerror', None) or error}); give a name "
            "or an address of this machine, such as 127.0.0.1 or 0.0.0.0."
        ) from None


def build(explorer: Explorer) -> Any:
    """The page, a ``gradio.Blocks``."""
    gradio, gan = _gradio(), explorer.gan

    def samples(seed: float, truncation: float, label: str) -> list[Any]:
        return explorer.samples(int(seed or 0), **_options(truncation, label))

    def show(points: list[Point], position: float, truncation: float, scale: float, label: str) -> tuple[Any, str]:
        if not points:
            return None, ASK
        return explorer.walk(points, position, scale=scale, **_options(truncation, label))

    def choose(points: list[Point], seed: float, event: gradio.SelectData) -> tuple[list[Point], int]:
        return [*points, (int(seed or 0), event.index)], 1  # the end of the walk, to see it

    with gradio.Blocks(title=f"fastgan: {gan.path}", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gradio.Markdown(f"**{gan.path}**, step {gan.step:,}, of {gan.data}")
        points = gradio.State([])
        with gradio.Row():
            with gradio.Column(scale=3):
                with gradio.Row():
                    seed = gradio.Number(0, label="Seed", precision=0, minimum=0)
                    label = gradio.Dropdown(
                        [ALL, *map(str, range(gan.num_classes))], value=ALL, label="Class", visible=gan.num_classes > 0
                    )
                truncation = gradio.Slider(0.1, WHOLE, WHOLE, step=0.1, label="Truncation, standard deviations")
                gallery = gradio.Gallery(
                    explorer.samples(),
                    columns=6,
                    label="Samples",
                    allow_preview=False,
                    format="png",
                    interactive=False,
                    buttons=[],
                )
            with gradio.Column(scale=2):
                picture = gradio.Image(
                    type="pil", format="png", label="Image", interactive=False, buttons=["download", "fullscreen"]
                )
                caption = gradio.Markdown(ASK)
                position = gradio.Slider(0, 1, 0, step=0.01, label="Walk from the first to the last")
                scale = gradio.Slider(0, 2, 1, step=0.05, label="Length of the latent")
                clear = gradio.Button("Choose anew")

        settings = [seed, truncation, label]
        latest = {"show_progress": "hidden", "trigger_mode": "always_last"}
        gradio.on([each.change for each in settings], samples, settings, gallery, api_name="samples", **latest)
        gallery.select(choose, [points, seed], [points, position], api_name="choose", trigger_mode="multiple")
        clear.click(lambda: ([], 0), None, [points, position], api_name="clear")
        view = [points, position, truncation, scale, label]
        gradio.on([each.change for each in view], show, view, [picture, caption], api_name="show", **latest)
    return page


def serve(page: Any, *, host: str = "127.0.0.1", port: int | None = None, browser: bool = True) -> str:
    """Starts the page in a thread of its own and returns its address; ``page.block_thread()`` waits for Ctrl-C.

    Raises:
        UserError: where the port is taken, or the host is not this machine's.
    """
    check_host(host)
    gradio = _gradio()
    # Fonts of the reader's own machine; gradio's are a request each.
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            theme=theme,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        taken = "all ports from 7860 on are" if port is None else f"port {port} is"
        raise UserError(f"{taken} in use at {host}, or not allowed ({error}); give another --port.") from None
    return address


def _options(truncation: float, label: str | None) -> dict[str, Any]:
    """What the controls mean to :class:`Explorer`."""
    return {
        "truncation": None if truncation >= WHOLE else truncation,
        "label": None if label in (None, ALL) else int(label),
    }


def _gradio() -> Any:
    """gradio, which is told to keep quiet before it is imported."""
    check_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio

    return gradio
