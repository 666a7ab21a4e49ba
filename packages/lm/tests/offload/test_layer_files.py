"""Layers on disk: written whole or not at all, read past the cache, refused when they changed."""

import errno
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from fivefold import UserError
from fivefold_lm.offload.layer_files import ENTRY, MANIFEST, LayerFiles, written_once
from fivefold_lm.offload.storage import PAGE, LayerLayout, aligned_bytes

COUNT = 4


def layer(index, dtype=torch.float32):
    generator = torch.Generator().manual_seed(index)
    return {
        "up.weight": torch.randn(48, 33, generator=generator).to(dtype),
        "down.weight": torch.randn(33, 48, generator=generator).to(dtype),
    }


def layers():
    return (layer(index) for index in range(COUNT))


def write(name="model", made=layers, need=1):
    return written_once(name, made, need, lambda: {"marks": {"a": "b"}})


def read(files, index):
    layout = files.layouts[index]
    buffer = aligned_bytes(layout.nbytes)
    files.load(index, buffer)
    return layout.views(buffer, None)


def refused(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("the streamed layers are damaged: ")
    assert f"fivefold cache clear entry={ENTRY}" in line
    assert "written anew" in line
    return line


def test_what_is_written_once_is_read_as_it_was():
    folder = write()
    assert write(made=lambda: pytest.fail("written twice")) == folder
    files = LayerFiles(folder)
    assert files.about["marks"] == {"a": "b"}
    for index in (2, 0, 3, 1, 0):
        found = read(files, index)
        assert found.keys() == layer(index).keys()
        assert all(torch.equal(found[name], weight) for name, weight in layer(index).items())
    files.close()


def test_a_layer_is_one_aligned_storage_with_the_same_offsets_in_all(tmp_path):
    folder = write()
    files = LayerFiles(folder)
    assert all(layout == files.layouts[0] for layout in files.layouts)
    sizes = {path.stat().st_size for path in folder.glob("*.layer")}
    assert sizes == {files.sizes[0]}
    assert files.sizes[0] % PAGE == 0
    places = files.layouts[0].places.values()
    assert all(place.data.offset % 64 == 0 for place in places)
    assert aligned_bytes(5000).data_ptr() % PAGE == 0
    assert aligned_bytes(5 << 20).data_ptr() % PAGE == 0
    files.close()


def test_a_layout_survives_its_manifest_and_refuses_other_weights():
    layout = LayerLayout.of(layer(0))
    assert LayerLayout.from_json(layout.to_json()) == layout
    with pytest.raises(ValueError, match="laid out otherwise"):
        list(layout.pieces(layer(0, torch.bfloat16)))


@pytest.mark.parametrize("reads", ["direct", "dropped"])
def test_reads_come_from_the_disk_and_leave_nothing_in_the_page_cache(monkeypatch, reads):
    folder = write(made=lambda: ({"w.weight": torch.randn(512, 1024)} for _ in range(2)))
    if reads == "dropped":
        monkeypatch.setattr(os, "O_DIRECT", 0, raising=False)
    files = LayerFiles(folder)
    if reads == "direct" and files.reads != "direct":
        pytest.skip("this file system reads through the page cache only")
    assert files.reads == reads
    read(files, 0)
    before = _bytes_read()
    read(files, 0)
    if before is None:
        pytest.skip("this system does not count what is read from its disks")
    assert _bytes_read() - before >= files.sizes[0], "the page cache answered"
    files.close()


def _bytes_read():
    try:
        with open("/proc/self/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
    except OSError:
        return None


def test_a_file_system_without_reads_past_the_cache_gets_plain_ones(monkeypatch):
    folder, right = write(), os.preadv

    def preadv(fd, buffers, offset):
        if files is None:
            raise OSError(errno.EINVAL, "Invalid argument")
        return right(fd, buffers, offset)

    files = None
    monkeypatch.setattr(os, "preadv", preadv)
    made = LayerFiles(folder)
    files = made
    assert made.reads == ("dropped" if hasattr(os, "posix_fadvise") else "cached")
    assert torch.equal(read(made, 1)["up.weight"], layer(1)["up.weight"])
    made.close()


@pytest.mark.parametrize("size", [0, 100, PAGE, 2 * PAGE])
def test_a_truncated_file_is_refused_before_and_while_it_is_read(size):
    folder = write()
    files = LayerFiles(folder)
    os.truncate(folder / "002.layer", size)
    line = refused(read, files, 2)
    assert f"002.layer has {size} bytes, not {files.sizes[2]}" in line
    read(files, 1)
    files.close()
    assert f"002.layer has {size} bytes" in refused(LayerFiles, folder)


def test_a_file_that_changes_under_us_is_refused():
    folder = write()
    files = LayerFiles(folder)
    read(files, 1)
    path = folder / "001.layer"
    with path.open("r+b") as file:
        file.seek(10)
        file.write(b"other")
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))  # clocks of files are coarse
    assert "001.layer was written to while the model runs" in refused(read, files, 1)
    files.close()
    assert "001.layer is not what was written" in refused(LayerFiles, folder)


def test_files_that_were_only_copied_or_touched_are_taken():
    folder = write()
    moved = folder.with_name("moved")
    shutil.copytree(folder, moved, copy_function=shutil.copy)
    os.utime(moved / "000.layer")
    for _ in range(2):
        files = LayerFiles(moved)
        assert torch.equal(read(files, 0)["up.weight"], layer(0)["up.weight"])
        files.close()


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "other"])
def test_a_damaged_manifest_is_refused(damage):
    folder = write()
    path = folder / MANIFEST
    text = path.read_text()
    changed = {
        "cut": text[:-9],
        "changed": text.replace('"offset": 0', '"offset": 64', 1),
        "other": "[]",
    }
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(changed[damage])
    assert MANIFEST in refused(LayerFiles, folder)


def test_a_missing_layer_is_refused():
    folder = write()
    (folder / "003.layer").unlink()
    assert "003.layer cannot be opened" in refused(LayerFiles, folder)


def test_a_disk_error_is_refused_in_one_line(monkeypatch):
    files = LayerFiles(write())

    def preadv(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    line = refused(read, files, 0)
    assert "000.layer cannot be read from byte 0 on (Input/output error)" in line
    files.close()


def test_a_disk_that_fills_is_one_line_and_nothing_is_left(cache, monkeypatch):
    def fsync(fd):
        if len(os.listdir(next((cache / ENTRY).glob(".full.*.tmp")))) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"\(No space left on device\).*make room"):
        write("full")
    assert [path for path in (cache / ENTRY).iterdir() if path.is_dir()] == []


def test_a_file_system_that_refuses_more_bytes_leaves_nothing(cache):
    """The system's own refusal, in the middle of a layer: a limit on the size of files."""
    script = (
        "import resource, torch\n"
        "from fivefold import UserError\n"
        "from fivefold_lm.offload.layer_files import written_once\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({3 * PAGE}, {3 * PAGE}))\n"
        "layers = lambda: iter([{'w': torch.ones(8, 8)}, {'w': torch.ones(100, 100)}])\n"
        "try:\n"
        "    written_once('big', layers, 1, dict)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.startswith("the cache folder cannot be written (File too large)"), done
    assert [path for path in (cache / ENTRY).iterdir() if path.is_dir()] == []


def test_too_small_a_disk_is_seen_before_anything_is_written(cache):
    with pytest.raises(UserError, match=r"the layers take 8\.0TiB on disk and .* are free"):
        write("vast", made=lambda: pytest.fail("begun"), need=2**43)
    assert [path for path in (cache / ENTRY).iterdir() if path.is_dir()] == []


def test_an_interrupted_write_leaves_nothing(cache):
    def interrupted():
        yield layer(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write("cut", made=interrupted)
    assert [path for path in (cache / ENTRY).iterdir() if path.is_dir()] == []
    assert LayerFiles(write("cut")).sizes


def test_the_rate_holds_over_many_reads_and_closing_does_not_wait():
    folder = write()
    files = LayerFiles(folder)
    rate = files.sizes[0] / 0.02
    files.close()
    files = LayerFiles(folder, rate=rate)
    begin = time.perf_counter()
    for index in (0, 1, 2, 3, 0, 1):
        read(files, index)
    assert time.perf_counter() - begin >= 6 * 0.02
    assert files.disk_rate(0.01) > 2 * rate
    files.rate = 1.0
    files.interrupt()
    begin = time.perf_counter()
    read(files, 0)
    assert time.perf_counter() - begin < 5
    files.close()
