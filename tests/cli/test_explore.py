import pytest
from runs import write_run

from fastgan import explore_page


class Page:
    def block_thread(self):
        self.waited = True


@pytest.fixture
def served(monkeypatch):
    """Stands in for gradio, and keeps what the page was to be served with."""
    calls = []
    monkeypatch.setattr(explore_page, "check_gradio", lambda: None)
    monkeypatch.setattr(explore_page, "build", lambda explorer: calls.append(explorer.gan.data) or Page())

    def serve(page, **options):
        calls.extend([page, options])
        return "http://here:7860/"

    monkeypatch.setattr(explore_page, "serve", serve)
    return calls


def test_the_page_is_for_this_machine_unless_it_is_told_otherwise(run, served, tmp_path):
    write_run(tmp_path / "run", "mlp")
    assert run("explore", "run") == (0, "http://here:7860/  (Ctrl-C ends it)\n", "")
    data, page, options = served
    assert data == "noise" and page.waited and options == {"host": "127.0.0.1", "port": None, "browser": True}
    assert run("explore", "run", "--host", "0.0.0.0", "--port", 8000, "--no-browser")[0] == 0
    assert served[-1] == {"host": "0.0.0.0", "port": 8000, "browser": False}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("missing", "there is no run missing"),
        ("pairs", "maps images to images, so there are no latents to explore"),
        ("--port 0", "port must be a whole number from 1 to 65535, but it is 0"),
        ("--host nosuchhost.invalid", "host is 'nosuchhost.invalid', where nothing can be served ("),
        ("--port high", "'high' is not a whole number"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(run, served, tmp_path, arguments, words):
    write_run(tmp_path / "pairs", "encoder_decoder")
    code, _, err = run("explore", *arguments.split())
    assert code == 2 and words in err and err.count("\n") == 1 and served == []


def test_a_missing_gradio_is_told_before_any_work(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, err = run("explore", "missing")
    assert (code, out) == (2, "") and "pip install 'fastgan[explore]'" in err and err.count("\n") == 1
