"""Packaging: trainers/ and architectures/ stand at the top level and are installed as sub-packages."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5"]
PACKAGE = "nnunet_hypersegnas"
OUTER = ("trainers", "architectures")

version = re.search(r'^__version__ = "(.+)"$', (ROOT / PACKAGE / "__init__.py").read_text(), re.MULTILINE)[1]

packages = [PACKAGE, *(f"{PACKAGE}.{name}" for name in find_packages(PACKAGE))]
package_dir = {PACKAGE: PACKAGE}
for outer in OUTER:
    names = [outer, *(f"{outer}.{name}" for name in find_packages(outer))]
    packages += [f"{PACKAGE}.{name}" for name in names]
    package_dir[f"{PACKAGE}.{outer}"] = outer

setup(
    name=PACKAGE,
    version=version,
    description="HyperSegNAS for nnU-Net: train one super-net, get the best network for each GPU memory budget",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=packages,
    package_dir=package_dir,
    # nnunet_ext is no package: nnU-Net puts the folder on sys.path and imports the module in it by its file name.
    package_data={
        PACKAGE: ["py.typed"],
        f"{PACKAGE}.evaluation": ["published/*.json"],
        f"{PACKAGE}.trainers": ["nnunet_ext/*.py"],
    },
    install_requires=[
        "nnunetv2>=2.8,<2.9",
        "torch>=2.6",  # earlier ones run code in files that are read with weights_only
        "batchgenerators>=0.25.1",
        "batchgeneratorsv2>=0.3.2",
        "SimpleITK>=2.2.1",
        "numpy>=1.24",
        "acvl-utils>=0.2.6,<0.3",
        "dynamic-network-architectures>=0.4.4,<0.5",
        "nibabel>=5",
        "nvidia-ml-py>=12",  # the maintained distribution of pynvml
        "filelock",
        "matplotlib",
        "optuna>=4.9",
        "pydantic>=2.5",
        "scikit-image",
        "scikit-learn",
        "scipy",
        "sqlalchemy>=2",
        "tifffile",
        "tqdm",
        "typing_extensions",
    ],
    extras_require={
        "postgres": ["psycopg[binary]>=3.1"],
        "slurm": ["submitit>=1.5"],
        "onnx": ONNX,
        "test": [
            "hypothesis>=6.100",
            "monai>=1.5",
            "pytest>=8",
            "pytest-timeout",
            "setuptools>=77",
            "psycopg[binary]>=3.1",
            "submitit>=1.5",
            *ONNX,
        ],
        "dev": ["ruff", "mypy", "build"],
    },
    entry_points={
        "console_scripts": [
            "hsnas_ablation = nnunet_hypersegnas.cli.ablation:main",
            "hsnas_correlation = nnunet_hypersegnas.cli.correlation:main",
            "hsnas_crossval = nnunet_hypersegnas.cli.crossval:main",
            "hsnas_env = nnunet_hypersegnas.cli.env:main",
            "hsnas_calibrate = nnunet_hypersegnas.cli.calibrate:main",
            "hsnas_compare = nnunet_hypersegnas.cli.compare:main",
            "hsnas_cost = nnunet_hypersegnas.cli.cost:main",
            "hsnas_space = nnunet_hypersegnas.cli.space:main",
            "hsnas_search = nnunet_hypersegnas.cli.search:main",
            "hsnas_transfer = nnunet_hypersegnas.cli.transfer:main",
            "hsnas_evaluate = nnunet_hypersegnas.cli.evaluate:main",
            "hsnas_export = nnunet_hypersegnas.cli.export:main",
            "hsnas_man = nnunet_hypersegnas.cli.man:main",
            "hsnas_msd = nnunet_hypersegnas.cli.msd:main",
            "hsnas_msd_submission = nnunet_hypersegnas.cli.msd_submission:main",
            "hsnas_status = nnunet_hypersegnas.cli.status:main",
            "hsnas_demo = nnunet_hypersegnas.cli.demo:main",
        ]
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
