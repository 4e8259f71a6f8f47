# SPDX-License-Identifier: GPL-2.0-or-later
"""The module's loader in a process that is no QEMU: it says so, and the process goes on."""
import os
import pathlib
import subprocess
import sys

import pytest

MODULE = pathlib.Path(__file__).resolve().parents[2] / "hw/module"
# A folder of which two entries can be read.
FAILING_READDIR = """
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
struct dirent *readdir(DIR *folder)
{
    static int calls;
    struct dirent *(*next)(DIR *) = dlsym(RTLD_NEXT, "readdir");
    errno = EIO;
    return calls++ < 2 ? next(folder) : 0;
}
"""


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    subprocess.run(["g++", "-std=c++23", "-fPIC", "-shared", "-o", folder / "qemu-rdma.so",
                    MODULE / "loader.cc", MODULE / "module_object.cc"], check=True)
    return folder / "qemu-rdma.so"


def load(loader, **environment):
    return subprocess.run([sys.executable, "-c", f"import ctypes; ctypes.CDLL('{loader}')"], capture_output=True,
                          text=True, env={**os.environ, **environment})


def test_where_there_is_no_module_it_says_so(loader):
    ended = load(loader)
    assert ended.returncode == 0, ended
    assert f"qemu-rdma: modules in {loader.parent}: none\n" in ended.stderr


def test_a_folder_that_cannot_be_read_to_its_end_is_told(loader, tmp_path):
    (tmp_path / "readdir.c").write_text(FAILING_READDIR)
    subprocess.run(["gcc", "-fPIC", "-shared", "-o", tmp_path / "readdir.so", tmp_path / "readdir.c"], check=True)
    ended = load(loader, LD_PRELOAD=f"{tmp_path}/readdir.so")
    assert ended.returncode == 0, ended
    assert f"qemu-rdma: modules in {loader.parent}: unknown: Input/output error\n" in ended.stderr
