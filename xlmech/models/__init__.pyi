from .load import load_model as load_model
