from .measure import LeakageResult as LeakageResult
from .measure import measure_leakage as measure_leakage
from .written import written_answers as written_answers
