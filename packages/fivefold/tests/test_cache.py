"""The cache folder: where it is, what it holds, and what is never cleared."""

import pytest
from fivefold import UserError
from fivefold.cache import cache_folder, clear, entries, in_units


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "made" / "cache"))
    found = cache_folder()
    (found / "model").mkdir()
    (found / "model" / "weights").write_bytes(b"x" * 2000)
    (found / "report").write_bytes(b"x" * 10)
    return found


def test_it_is_made_where_the_environment_says_and_tagged(folder, tmp_path):
    assert folder == tmp_path / "made" / "cache"
    assert (folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f")
    assert cache_folder() == folder


def test_it_is_the_platforms_own_without_it(tmp_path, monkeypatch):
    monkeypatch.delenv("FIVEFOLD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().is_relative_to(tmp_path)


def test_a_place_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cache folder .*FIVEFOLD_CACHE="):
        cache_folder()


def test_entries_have_their_sizes(folder):
    assert entries(folder) == [("model", 2000), ("report", 10)]


def test_clearing_one_entry_leaves_the_others(folder):
    assert clear(folder, "model") == 2000
    assert entries(folder) == [("report", 10)]


def test_clearing_leaves_an_empty_cache(folder):
    assert clear(folder) == 2010
    assert entries(folder) == []
    assert (folder / "CACHEDIR.TAG").exists()


def test_a_folder_that_was_never_a_cache_is_not_cleared(tmp_path, monkeypatch):
    (tmp_path / "letters").write_text("dear")
    monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="is not cleared"):
        clear(cache_folder())
    assert (tmp_path / "letters").read_text() == "dear"


def test_what_a_link_points_to_stays(folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("x")
    (folder / "link").symlink_to(tmp_path / "outside")
    clear(folder)
    assert (tmp_path / "outside" / "kept").exists()


def test_an_unknown_entry_names_the_nearest(folder):
    with pytest.raises(UserError, match=r"entry=modle.*did you mean model"):
        clear(folder, "modle")


def test_the_task_lists_sizes_and_clears(here, folder, tmp_path):
    status, out, err = here("cache")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "    2.0 kB  model",
        "      10 B  report",
        f"    2.0 kB  in {folder}",
    ]
    assert here("cache", "size")[1] == f"    2.0 kB  in {folder}\n"
    assert here("cache", "action=clear", "entry=report")[1] == f"freed 10 B in {folder}\n"
    assert here("cache", "clear")[1] == f"freed 2.0 kB in {folder}\n"
    assert not (tmp_path / "outputs").exists()


def test_sizes_are_read_by_people():
    assert [in_units(n) for n in (0, 999, 1000, 12_345_678, 10**13)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12.3 MB",
        "10.0 TB",
    ]
