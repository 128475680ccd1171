from .record import ActivationMoments as ActivationMoments
from .record import activation_moments as activation_moments
from .sampling import Sampling as Sampling
