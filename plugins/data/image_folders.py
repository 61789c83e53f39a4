"""Files in folders and subfolders: each real file once, whatever links lead to it."""

from __future__ import annotations

import os
from collections import deque

from core.files import paths


class FileList:
    """Files added by path or by folder, in this order, those of a folder sorted by path.

    Links to files and folders are followed, hidden ones included. A file or folder that is reached twice counts once,
    under its own path if that is in the folder, else under the first link. Hard links are files of their own.

    Attributes:
        files: paths that begin as they were added.
        unreadable: folders that cannot be listed, and links to nothing that may have been folders.

    Args:
        endings: of the files that are taken from folders, in lower case; upper case is accepted too.
        beside: ending of a second file: files without one beside them are left out, and a pair counts as one.
    """

    def __init__(self, endings: tuple[str, ...], beside: str = ""):
        self.files: list[str] = []
        self.unreadable: list[str] = []
        self._endings, self._beside = endings, beside
        self._known: set[str] = set()  # real paths of files and folders
        self._links: deque[str] = deque()

    def add(self, path: str) -> int:
        """Add a file, or the files of a folder; return the number of new files and unreadable folders."""
        before = len(self.files), len(self.unreadable)
        if self._is_new(os.path.realpath(path)):
            if paths.isdir(path):
                self._add_tree(path)
                while self._links:  # after all real files, which so come under their own paths
                    self._add_link(self._links.popleft())
                self.files[before[0] :] = sorted(self.files[before[0] :], key=lambda file: file.split(os.sep))
            else:
                self.files.append(path)
        return len(self.files) - before[0] + len(self.unreadable) - before[1]

    def _add_tree(self, root: str) -> None:
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                names = sorted(paths.ls(folder))
            except OSError:
                self.unreadable.append(folder)
                continue
            if os.path.isdir(folder) and not os.access(folder, os.X_OK):
                self.unreadable.append(folder)  # it can be listed and not entered
                continue
            real_folder = os.path.realpath(folder)
            for name in names:
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    self._links.append(path)
                elif not paths.isdir(path):
                    self._add_file(path, os.path.join(real_folder, name))
                elif self._is_new(os.path.join(real_folder, name)):
                    folders.append(path)

    def _add_link(self, path: str) -> None:
        real = os.path.realpath(path)
        if os.path.isdir(path):
            if self._is_new(real):
                self._add_tree(path)
        elif not os.path.exists(path) and "." not in os.path.basename(path):
            self.unreadable.append(path)
        else:
            self._add_file(path, real)

    def _add_file(self, path: str, real: str) -> None:
        if not path.lower().endswith(self._endings) or (os.path.exists(path) and not os.path.isfile(path)):
            return  # pipes and devices are left out: reading them may never end
        if self._beside:
            companion = os.path.splitext(path)[0] + self._beside
            if not paths.exists(companion):
                return
            real = f"{real}\0{os.path.realpath(companion)}"
        if self._is_new(real):
            self.files.append(path)

    def _is_new(self, real: str) -> bool:
        new = real not in self._known
        self._known.add(real)
        return new


def list_files(folder: str, endings: tuple[str, ...], beside: str = "") -> list[str]:
    """List the files of a folder and its subfolders, sorted by path; see FileList.

    Raises:
        ValueError: a subfolder cannot be listed; names it.
    """
    listing = FileList(endings, beside)
    listing.add(folder)
    if listing.unreadable:
        raise ValueError(f"{listing.unreadable[0]}: cannot be listed: no permission, or a link to nothing")
    return listing.files
