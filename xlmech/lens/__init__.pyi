from .direct_logit import DirectLogitResult as DirectLogitResult
from .direct_logit import direct_logit_attribution as direct_logit_attribution
from .logit import LensResult as LensResult
from .logit import logit_lens as logit_lens
from .similarity import SimilarityResult as SimilarityResult
from .similarity import representation_similarity as representation_similarity
from .tuned import TunedLens as TunedLens
from .tuned import train_tuned_lens as train_tuned_lens
