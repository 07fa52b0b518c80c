"""The part of the build that pyproject.toml cannot say: which folders become packages.

Everything else about the distribution stands in pyproject.toml.
"""

from setuptools import find_packages, setup

ROOMS = ("encoders", "entropy", "tofc", "eval")

setup(
    # Every folder with an __init__.py under a room, so that no list of packages can go stale.
    packages=[
        *find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")]),
        "tofc._configs",
    ],
    # `configs/` is a room of its own in the source tree; inside an installation its files lie beside the code
    # that looks them up by name, instead of claiming the top-level name `configs` for everybody.
    package_dir={"tofc._configs": "configs"},
    package_data={
        "encoders": ["py.typed"],
        "entropy": ["py.typed"],
        "tofc": ["py.typed", "assets/**/*", "ui/static/**/*"],
        "tofc._configs": ["*.yaml"],
        "eval": [
            "**/*.json",
            "**/*.yaml",
            "**/*.txt",
            "**/*.jpg",
            "**/*.png",
            "**/*.npz",
            "**/*.html",
            "**/*.css",
            "**/*.js",
        ],
    },
)
