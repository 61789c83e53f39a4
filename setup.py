"""Packaging of Patchbay: the distribution patchbay-vl of core, plugins, registry and the module patchbay."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
TEST = [
    "pytest>=8",
    "pytest-benchmark>=5",
    "pytest-xdist>=3.5",
    "pytest-cov>=5",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.13",
    "types-PyYAML",
    "types-tqdm",
    "setuptools>=68",
    "wheel",
]


class BuildWithRecipes(build_py):
    """Copy the recipes from projects/ to core/recipes; a checkout and an editable install read projects/ itself."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "core" / "recipes"
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            for file in sorted((HERE / "projects").rglob("*.yaml")):
                copy = target / file.relative_to(HERE / "projects")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


setup(
    name="patchbay-vl",
    version=re.search(r"^## (\d+\.\d+\.\d+)", (HERE / "CHANGELOG.md").read_text(), re.M).group(1),
    description="Efficient vision-language models from plugins: COPA, CoCa, token pruners, honest FLOPs",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["core*", "plugins*", "registry*"]),
    package_data={"core": ["*.pyi"]},
    py_modules=["patchbay"],
    cmdclass={"build_py": BuildWithRecipes},
    install_requires=[
        "torch>=2.10",
        "torchvision>=0.25",
        "timm>=1.0.21",
        "transformers>=5.0",
        "tokenizers>=0.20",
        "safetensors>=0.4.3",
        "pluggy>=1.5",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",
        "pyyaml>=6.0",
        "numpy>=1.26",
        "pillow>=10",
        "tqdm>=4.66",
        "matplotlib>=3.8",
    ],
    extras_require={"test": TEST, "tensorboard": ["tensorboard>=2.16"], "captions": ["pycocoevalcap>=1.2,<2"]},
    entry_points={"console_scripts": ["patchbay = patchbay:main"]},
)
