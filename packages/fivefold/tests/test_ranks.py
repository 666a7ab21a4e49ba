"""What torchrun's ranks leave: each in a folder of its own."""

from fivefold.job import rank_folder


def test_only_rank_0_has_the_runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert rank_folder(tmp_path) == tmp_path
    monkeypatch.setenv("RANK", "1")
    own = rank_folder(tmp_path)
    assert own.parent == tmp_path
    assert own.is_dir()


def test_rank_of_another_program_says_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "3")
    assert rank_folder(tmp_path) == tmp_path
