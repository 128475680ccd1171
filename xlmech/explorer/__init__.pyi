from .circuit import Circuit as Circuit
from .code import code_of as code_of
from .open import explore as explore
from .saved.code import saved_code as saved_code
from .saved.run import SavedRun as SavedRun
from .saved.state import SavedState as SavedState
from .state import ExplorerState as ExplorerState
