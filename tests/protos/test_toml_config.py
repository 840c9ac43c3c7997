"""A TOML file fits its dataclass, or the error names the file and the key."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from twinspire.protos import toml_config
from twinspire.protos.errors import ConfigError
from twinspire.protos.toml_config import KindsIn


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"]
    radius: float

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius: expected above 0, got {self.radius}")


@dataclass(frozen=True)
class Square:
    kind: Literal["square"]
    side: int = 1


@dataclass(frozen=True)
class Drawing:
    title: str
    shape: Circle | Square
    sizes: tuple[int, ...] = ()
    layers: dict[str, Circle | Square] = field(default_factory=dict)
    mode: Literal["fill", "line"] = "line"
    visible: bool = True


def read(tmp_path: Path, text: str) -> Drawing:
    path = tmp_path / "drawing.toml"
    path.write_text(text)
    return toml_config.read(path, Drawing)


VALID = 'title = "a"\nshape = { kind = "circle", radius = 2 }\n'


def test_reads_a_file(tmp_path: Path) -> None:
    more = 'sizes = [1, 2]\nlayers.top = { kind = "square", side = 3 }\nmode = "fill"\n'
    assert read(tmp_path, VALID + more) == Drawing(
        title="a",
        shape=Circle("circle", 2.0),
        sizes=(1, 2),
        layers={"top": Square("square", 3)},
        mode="fill",
    )
    assert type(read(tmp_path, VALID).shape.radius) is float  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VALID + "colour = 1", "colour: unknown key; known here: layers, mode, shape"),
        (VALID + "visble = true", r"visble: unknown key; known here: layers, .*; did you mean visible\?"),
        ('title = "a"', "shape: required, but missing"),
        (VALID.replace('"a"', "1"), "title: expected a string, got 1"),
        (VALID + "visible = 1", "visible: expected true or false, got 1"),
        (VALID + "sizes = 1", "sizes: expected a list, got 1"),
        (VALID + 'sizes = [1, "2"]', r"sizes\[1\]: expected an integer, got '2'"),
        (VALID + "sizes = [true]", r"sizes\[0\]: expected an integer, got True"),
        (VALID + 'mode = "dots"', "mode: expected one of 'fill', 'line', got 'dots'"),
        (VALID + "layers = 1", "layers: expected a table, got 1"),
        ('title = "a"\nshape = 1', "shape: expected a table, got 1"),
        ('title = "a"\nshape = {}', "shape.kind: expected one of 'circle', 'square', got None"),
        ('title = "a"\nshape = { kind = "oval" }', "shape.kind: .* got 'oval'"),
        ('title = "a"\nshape = { kind = ["circle"] }', r"shape.kind: .* got \['circle'\]"),
        (VALID.replace("2", '"2"'), "shape.radius: expected a number, got '2'"),
        (VALID.replace("2", "0"), "shape.radius: expected above 0, got 0.0"),
        (
            VALID.replace("2", "1" + "0" * 400),
            "shape.radius: expected a number from -1.8e308 to 1.8e308",
        ),
        (VALID.replace("radius = 2", "radius = 2, side = 1"), "shape.side: unknown key"),
        (VALID + 'layers.top = { kind = "square", size = 1 }', "layers.top.size: unknown key"),
        ("title =", "not valid TOML"),
    ],
)
def test_names_the_file_and_the_key(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"drawing.toml: {expected}"):
        read(tmp_path, text)


def test_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file"):
        toml_config.read(tmp_path / "none.toml", Drawing)


DISC = """
from dataclasses import dataclass
from typing import Literal

@dataclass(frozen=True)
class Part:
    share: float

@dataclass(frozen=True)
class Disc:
    kind: Literal["disc"]
    radius: float = 1.0
"""


@dataclass(frozen=True)
class Plate:
    shape: Annotated[Any, KindsIn("plate_shapes")]
    size: Annotated[int, "mm"] = 1


def test_a_kind_may_be_a_module_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plate_shapes").mkdir()
    for name, text in {"__init__": "", "disc": DISC, "blank": "", "broken": "raise RuntimeError"}.items():
        (tmp_path / "plate_shapes" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    plate = toml_config.parse({"shape": {"kind": "disc", "radius": 2}, "size": 3}, Plate)
    assert (plate.shape.radius, plate.size) == (2.0, 3)
    known = "'blank', 'broken', 'disc'"
    for shape, expected in (
        (1, "shape: expected a table, got 1"),
        ({}, f"shape.kind: expected one of {known}, got None"),
        ({"kind": "oval"}, f"shape.kind: expected one of {known}, got 'oval'"),
        ({"kind": "disc", "side": 1}, "shape.side: unknown key; known here: kind, radius"),
    ):
        with pytest.raises(ValueError, match=re.escape(expected)):
            toml_config.parse({"shape": shape}, Plate)
    with pytest.raises(TypeError, match=r"plate_shapes\.blank: expected a dataclass with a field kind"):
        toml_config.parse({"shape": {"kind": "blank"}}, Plate)
