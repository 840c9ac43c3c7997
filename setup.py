"""Installs the folders of this repository as `twinspire.train` and so on, which pyproject.toml cannot say."""

from setuptools import find_packages, setup

FOLDERS = ("protos", "train", "export", "serving")

setup(
    packages=[
        f"twinspire.{name}"
        for name in find_packages(include=[f"{each}*" for each in FOLDERS], exclude=["train.docs*"])
    ],
    package_dir={"twinspire": "."},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # the compiled modules keep to that interface
)
