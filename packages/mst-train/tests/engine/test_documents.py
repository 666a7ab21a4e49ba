"""Documents are read from wherever people keep them; what cannot be read is said in one line."""

import json

import pytest
from fivefold import UserError
from fivefold_mst_train.engine.config import DataConfig
from fivefold_mst_train.engine.data.documents import documents

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_austen_is_six_novels_in_full():
    found = documents(DataConfig())
    names = [document.place for document in found]
    assert len(found) == 6
    assert "austen/prideprejudice.txt" in names
    whole = "".join(document.text for document in found)
    assert "It is a truth universally acknowledged" in whole
    assert len(whole) > 4_000_000


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.md").write_text("first")
    (tmp_path / ".hidden.txt").write_text("never")
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "third"}) + "\n\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = documents(DataConfig(name=str(tmp_path)))
    assert [document.text for document in found] == ["first", "second", "third"]


def test_a_file_of_conversations_is_read(tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps({"text": "plain"}) + "\n")
    chat, plain = documents(DataConfig(name=str(file)))
    assert list(chat.messages) == CHAT
    assert plain.text == "plain"


def test_only_so_many_documents_are_taken(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    found = documents(DataConfig(name=str(tmp_path), max_documents=2))
    assert [document.text for document in found] == ["a", "b"]


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_saved_dataset_is_read_without_its_empty_rows(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"text": ["one", "", "two"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    found = documents(DataConfig(name=str(tmp_path / "saved")))
    assert [document.text for document in found] == ["one", "two"]


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_parquet_file_is_read_by_its_named_field(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict({"body": ["one", "two"]}).to_parquet(str(file))
    found = documents(DataConfig(name=str(file), text="body"))
    assert [document.text for document in found] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"messages": [{"role": "user"}]}', "line 2 holds neither"),
        ('{"body": "x"}', "it has: body"),
        ("[1, 2]", "it has: list"),
        ("{no json", "line 2 of bad.jsonl is no JSON"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path, text, reason):
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps({"text": "good"}) + f"\n{text}\n")
    with pytest.raises(UserError, match=reason):
        documents(DataConfig(name=str(file)))


def test_text_that_is_not_utf8_is_refused_by_its_name(tmp_path):
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt cannot be read \(it is not UTF-8 text\)"):
        documents(DataConfig(name=str(tmp_path)))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no text in it"):
        documents(DataConfig(name=str(tmp_path)))


@pytest.mark.parametrize("name", ["./nowhere", "missing.jsonl", "~/nothing-here.txt"])
def test_a_path_that_is_not_there_is_refused_and_not_looked_for_on_the_hub(name):
    with pytest.raises(UserError, match="no such file or folder"):
        documents(DataConfig(name=name))


@pytest.mark.parametrize("name", ["austen", "folder"])
def test_a_subset_of_local_text_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"data\.subset"):
        documents(DataConfig(name=name, subset="raw"))
