import pytest

from fastgan import cli


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs one command in this process, in a folder of its own; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return call
