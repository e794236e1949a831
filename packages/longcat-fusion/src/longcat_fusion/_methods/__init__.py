"""The merge methods, one short file each. A new one: a file here and a line in `METHODS`."""

from ._base import Method
from .breadcrumbs import Breadcrumbs
from .dare import Dare
from .della import Della
from .iso_c import IsoC
from .karcher import Karcher
from .linear import Linear
from .ram import Ram
from .recipe import Recipe
from .resmerge import ResMerge
from .sce import Sce
from .slerp import Slerp
from .task_arithmetic import TaskArithmetic
from .ties import Ties

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Recipe, Linear, TaskArithmetic, Slerp, Karcher, Ties, Dare, Della, Sce, Breadcrumbs, Ram,
        IsoC, ResMerge,
    )
}  # fmt: skip

__all__ = [
    "METHODS", "Breadcrumbs", "Dare", "Della", "IsoC", "Karcher", "Linear", "Method", "Ram",
    "Recipe", "ResMerge", "Sce", "Slerp", "TaskArithmetic", "Ties",
]  # fmt: skip
