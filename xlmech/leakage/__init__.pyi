from .measure import LeakageResult as LeakageResult
from .measure import measure_leakage as measure_leakage
