from .load import load_model as load_model
from .prompts import prompt_format as prompt_format
