from .circuit import Circuit as Circuit
from .code import code_of as code_of
from .open import explore as explore
from .state import ExplorerState as ExplorerState
