from .between_languages import PatchingResult as PatchingResult
from .between_languages import patch_languages as patch_languages
from .estimates import AttributionPatchingResult as AttributionPatchingResult
from .estimates import attribution_patching as attribution_patching
from .positions import PositionSweep as PositionSweep
from .positions import patch_positions as patch_positions
