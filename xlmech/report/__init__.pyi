from .compare import RunComparison as RunComparison
from .compare import compare_runs as compare_runs
from .page import write_report as write_report
from .release.comparison_page import write_comparison as write_comparison
