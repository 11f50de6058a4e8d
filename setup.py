"""Packaging: folders at the top of the repository become sub-packages of ``nmt``."""

from keyword import iskeyword
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE_DIR = {"nmt": "nmt", "nmt.modules": "modules", "nmt.criterions": "criterions", "nmt.conf": "conf"}
COMMANDS = (
    "preprocess",
    "train",
    "generate",
    "score",
    "average",
    "components",
    "export",
    "import",
    "bench",
    "prune",
    "similarity",
    "reproduce",
)
PEERS = ["ctranslate2>=4.4", "transformers>=5,<6"]
"""Toolkits that models are exported to and measured against."""


def module(command: str) -> str:
    """The file of a command in ``nmt/commands``; ``import`` cannot be the name of one."""
    return f"{command}_" if iskeyword(command) else command


def packages() -> list[str]:
    """Every mapped folder and the packages below it, under its importable name."""
    names = []
    for name, folder in PACKAGE_DIR.items():
        names.append(name)
        names.extend(f"{name}.{child}" for child in find_packages(folder))
    return names


setup(
    name="nmt",
    version="0.1.0",
    description="A registry-based research toolkit for small and fast neural machine translation",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.14",
    packages=packages(),
    package_dir=PACKAGE_DIR,
    package_data={"nmt": ["py.typed"], "nmt.conf": ["*.yaml", "*/*.yaml"]},
    install_requires=[
        "torch>=2.6,<2.14",
        "numpy>=1.26",
        "sentencepiece>=0.2.3",  # before, hostile models crash it
        "protobuf",
        "sacrebleu>=2.4",
        "hydra-core>=1.3,<1.4",
        "omegaconf>=2.3,<2.4",
        "pyyaml",
        "safetensors>=0.4",
        "tqdm>=4.66",
        "tensorboard>=2.16",
        "matplotlib>=3.8",
        'triton>=3.2; platform_system == "Linux" and platform_machine == "x86_64"',
    ],
    extras_require={
        "peers": PEERS,
        "dev": [
            *PEERS,
            "build",
            "hypothesis>=6.100",
            "mypy>=1.11",
            "pre-commit",
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist[psutil]",
            "ruff>=0.6",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": [f"nmt-{name} = nmt.commands.{module(name)}:main" for name in COMMANDS]},
)
