"""HDF5 files of others: links inside a file are followed, ways out of it are not."""

import h5py
import numpy as np
import pytest

from adlib import InputError
from adlib.hdf5 import describe, need_dataset, read_picture, read_values

PICTURES = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6)


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["pictures"] = PICTURES
    (tmp_path / "secret.raw").write_bytes(PICTURES.tobytes())
    with h5py.File(tmp_path / "set.h5", "w") as opened:
        opened["group/pictures"] = PICTURES
        opened["soft"] = h5py.SoftLink("/group/pictures")
        opened["group/near"] = h5py.SoftLink("pictures")
        opened["folder"] = h5py.SoftLink("/group")
        opened["round"] = h5py.SoftLink("/round")
        opened["nowhere"] = h5py.SoftLink("/none")
        opened["link"] = h5py.ExternalLink("secret.h5", "/pictures")
        opened["elsewhere"] = h5py.ExternalLink("secret.h5", "/")
        opened["soft_link"] = h5py.SoftLink("/elsewhere/pictures")
        opened.create_dataset("raw", (2, 4, 6), np.uint8, external=[("secret.raw", 0, 48)])
        layout = h5py.VirtualLayout((2, 4, 6), np.uint8)
        layout[:] = h5py.VirtualSource("secret.h5", "pictures", (2, 4, 6))
        opened.create_virtual_dataset("virtual", layout)
    return tmp_path / "set.h5"


@pytest.mark.parametrize("name", ["group/pictures", "/group/pictures", "soft", "group/near", "folder/pictures"])
def test_links_inside_a_file_are_followed(file, name):
    assert (read_picture(f"{file}::{name}::1") == PICTURES[1]).all()


@pytest.mark.parametrize("name", ["link", "elsewhere/pictures", "soft_link", "raw", "virtual"])
def test_no_dataset_leads_out_of_its_file(file, name):
    for read in (read_values, need_dataset):
        with pytest.raises(InputError, match=r"not followed|not read"):
            read(file, name)
    with pytest.raises(InputError, match=r"not followed|not read"):
        read_picture(f"{file}::{name}::0")


@pytest.mark.parametrize("name", ["round", "nowhere", "none", "group", "group/pictures/more"])
def test_what_leads_nowhere_is_no_dataset(file, name):
    with pytest.raises(InputError, match="has no dataset"):
        read_values(file, name)


def test_datasets_of_other_files_are_not_listed(file):
    assert "link" not in describe(file)
